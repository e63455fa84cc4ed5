//! What a container that does not stay up said last, for its row in the status.

use std::collections::BTreeMap;

use jiff::Timestamp;
use model::ledger::Ledger;
use model::name::ContainerId;
use model::paths::Roots;
use model::status::{ContainerStatus, State, Status};
use tracing::warn;

/// Lines shown.
const LINES: usize = 3;
/// Lines kept of an update that was taken back.
const KEPT: usize = 10;
/// Characters shown of each.
const WIDTH: usize = 200;

/// Read once for each run that ended.
#[derive(Debug, Default)]
pub struct LastWords(BTreeMap<ContainerId, (Timestamp, String)>);

impl LastWords {
    /// Appends them to the errors of containers that wait for another try or have failed.
    pub fn add(&mut self, status: &mut Status, roots: &Roots) {
        let mut known = std::mem::take(&mut self.0);
        for container in &mut status.containers {
            let Some((id, ended)) = fallen(container) else {
                continue;
            };
            let words = match known.remove(&id) {
                Some((at, words)) if at == ended => words,
                _ => read(roots, &id, container.started_at),
            };
            if words.is_empty() {
                // Nothing yet may be something in a moment.
                continue;
            }
            let text = container.error.get_or_insert_default();
            if !text.is_empty() {
                text.push_str("; ");
            }
            text.push_str("it said last: ");
            text.push_str(&words);
            self.0.insert(id, (ended, words));
        }
    }
}

/// Puts what the new one wrote last beside why its update is taken back, before it is removed with its log.
pub fn keep(ledger: &mut Ledger, before: &Ledger, roots: &Roots) {
    for (name, entry) in &mut ledger.containers {
        let known = before.containers.get(name).and_then(|e| e.rejected.as_ref());
        let (Some(rejected), Some(next)) = (&mut entry.rejected, &entry.next) else {
            continue;
        };
        if Some(&*rejected) != known && rejected.log.is_empty() {
            rejected.log = lines(roots, &next.accepted.id, KEPT, None);
        }
    }
}

/// A container whose latest run went wrong, and when that ended.
fn fallen(c: &ContainerStatus) -> Option<(ContainerId, Timestamp)> {
    let wrong = c.exit_code.is_some_and(|code| code != 0) || c.state == State::Backoff;
    let down = matches!(c.state, State::Backoff | State::Failed);
    (wrong && down).then_some(())?;
    Some((c.id.as_ref()?.parse().ok()?, c.finished_at?))
}

fn read(roots: &Roots, id: &ContainerId, since: Option<Timestamp>) -> String {
    lines(roots, id, LINES, since).join(" / ")
}

fn lines(roots: &Roots, id: &ContainerId, most: usize, since: Option<Timestamp>) -> Vec<String> {
    let dir = roots.container_state(id).join("log");
    let lines = runtime::log::tail::last_lines(&dir, most).unwrap_or_else(|e| {
        warn!(%id, "the end of its log cannot be read: {e}");
        Vec::new()
    });
    let of_this_run = lines.iter().filter(|l| since.is_none_or(|t| l.time >= t));
    of_this_run
        .map(|l| one_line(&l.log))
        .filter(|l| !l.is_empty())
        .collect()
}

fn one_line(text: &str) -> String {
    let plain = text.trim().chars().map(|c| if c.is_control() { ' ' } else { c });
    plain.take(WIDTH).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_short_and_has_no_control_characters() {
        assert_eq!(one_line("a\tb\x1b[31m \n"), "a b [31m");
        assert_eq!(one_line(&"x".repeat(500)).len(), WIDTH);
    }
}
