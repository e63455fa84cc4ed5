//! What people read: plans, tables and one-line states. Shared by the API and the command line.

use std::fmt::Write;

use jiff::Timestamp;
use model::plan::{Op, Plan, Reason};
use model::status::{ContainerStatus, State};
use serde::{Deserialize, Serialize};

/// `wharf plan --json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanReport {
    pub actions: Vec<PlanLine>,
}

/// One action or wait.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanLine {
    pub op: Op,
    pub kind: String,
    pub name: String,
    pub reasons: Vec<Reason>,
    /// Of a replacement, which is several actions: `stop`, `start`, `remove`, `create`; none: what is done beforehand.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<String>,
    /// The line people read.
    pub text: String,
}

impl PlanReport {
    /// The very plan a pass carries out, as lines.
    pub fn of(plan: &Plan) -> Self {
        let taken_up = plan.taken_up.iter().map(|t| PlanLine {
            op: Op::Update,
            kind: t.noun.kind().to_owned(),
            name: t.noun.name().to_owned(),
            reasons: t.reasons.clone(),
            step: None,
            text: reconciler::plan::describe_taken_up(t),
        });
        let actions = plan.actions.iter().map(|p| PlanLine {
            op: p.op,
            kind: p.action.noun().kind().to_owned(),
            name: p.action.noun().name().to_owned(),
            reasons: p.reasons.clone(),
            step: reconciler::plan::step(p).map(str::to_owned),
            text: reconciler::plan::describe(p),
        });
        let waits = plan.waits.iter().map(|w| PlanLine {
            op: Op::Wait,
            kind: w.noun.kind().to_owned(),
            name: w.noun.name().to_owned(),
            reasons: w.reasons.clone(),
            step: None,
            text: reconciler::plan::describe_wait(w),
        });
        Self {
            actions: taken_up.chain(actions).chain(waits).collect(),
        }
    }
}

/// `web: backoff, exited with 1: …`.
pub fn why_not_converged(c: &ContainerStatus) -> String {
    let mut text = format!("{}: {}", full_name(c), state_word(c.state));
    if c.state == State::Running && c.health != "none" {
        let _ = write!(text, ", {}", c.health); // writing to a String cannot fail
    }
    if let (Some(code), State::Backoff | State::Failed) = (c.exit_code, c.state) {
        let _ = write!(text, ", last exit {code}");
    }
    if let Some(error) = &c.error {
        let _ = write!(text, ": {error}");
    }
    text
}

/// The name, with the role of one that runs beside the active one.
pub fn full_name(c: &ContainerStatus) -> String {
    match c.role.as_str() {
        "active" => c.name.clone(),
        role => format!("{} ({role})", c.name),
    }
}

/// A state as the contract spells it.
pub fn state_word(state: State) -> &'static str {
    match state {
        State::Pending => "pending",
        State::Creating => "creating",
        State::Running => "running",
        State::Paused => "paused",
        State::Stopped => "stopped",
        State::Exited => "exited",
        State::Backoff => "backoff",
        State::Failed => "failed",
        State::Removing => "removing",
    }
}

/// Docker's STATUS column: `Up 3 minutes`, `Exited (1) 2 hours ago`.
pub fn docker_status(c: &ContainerStatus, now: Timestamp) -> String {
    let since = |t: Option<Timestamp>| t.map_or_else(|| "some time".to_owned(), |t| ago(t, now));
    match c.state {
        State::Running if c.health == "none" => format!("Up {}", since(c.started_at)),
        State::Running if c.health == "starting" => format!("Up {} (health: starting)", since(c.started_at)),
        State::Running => format!("Up {} ({})", since(c.started_at), c.health),
        State::Paused => format!("Up {} (Paused)", since(c.started_at)),
        State::Exited | State::Stopped | State::Failed if c.finished_at.is_some() => {
            format!(
                "Exited ({}) {} ago",
                c.exit_code.unwrap_or(0),
                since(c.finished_at)
            )
        }
        State::Backoff => format!(
            "Restarting ({}) {} ago",
            c.exit_code.unwrap_or(0),
            since(c.finished_at)
        ),
        state => {
            let word = state_word(state);
            word[..1].to_uppercase() + &word[1..]
        }
    }
}

/// `3 minutes`.
pub fn ago(then: Timestamp, now: Timestamp) -> String {
    let seconds = now.duration_since(then).as_secs().max(0);
    let (value, unit) = match seconds {
        0..=59 => (seconds, "second"),
        60..=3599 => (seconds / 60, "minute"),
        3600..=86_399 => (seconds / 3600, "hour"),
        _ => (seconds / 86_400, "day"),
    };
    if value == 1 {
        format!("1 {unit}")
    } else {
        format!("{value} {unit}s")
    }
}

/// Aligned columns, as wide as their widest cell; nothing after the last.
pub fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let width = |i: usize| {
        rows.iter()
            .map(|r| r[i].chars().count())
            .chain([head[i].chars().count()])
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let padded: Vec<String> = cells
            .zip(&widths)
            .map(|(cell, &w)| format!("{cell:<w$}"))
            .collect();
        padded.join("   ").trim_end().to_owned() + "\n"
    };
    let mut text = line(&mut head.iter().copied());
    for row in rows {
        text += &line(&mut row.iter().map(String::as_str));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_lines_end_clean() {
        let rows = vec![
            vec!["web".to_owned(), "running".to_owned()],
            vec!["longer-name".to_owned(), String::new()],
        ];
        let text = table(&["NAME", "STATE"], &rows);
        assert_eq!(text, "NAME          STATE\nweb           running\nlonger-name\n");
    }

    #[test]
    fn ages_are_whole_units() {
        let then = Timestamp::from_second(1_000_000).unwrap();
        for (after, text) in [
            (1, "1 second"),
            (59, "59 seconds"),
            (60, "1 minute"),
            (7200, "2 hours"),
            (200_000, "2 days"),
        ] {
            assert_eq!(
                ago(then, Timestamp::from_second(1_000_000 + after).unwrap()),
                text
            );
        }
    }
}
