//! Golden plans: from what was dropped before to what is there after, pass by pass, as people read it.
//!
//! Each folder of `tests/plan` holds `before.toml`, `after.toml` (or folders of files) and `plan.txt`; `WHARF_GOLDEN=write` writes the
//! last one anew.

#![allow(
    clippy::unwrap_used,
    reason = "a test stops where its world is not as it was made"
)]

mod sim;

use std::collections::BTreeSet;
use std::path::Path;

use jiff::{SignedDuration, Timestamp};
use model::action::{Failure, Failures};
use model::desired::Desired;
use model::file::{Outcome, Source};
use model::ledger::Ledger;
use model::name::ContainerId;
use model::plan::Plan;
use model::spec::Settings;
use reconciler::plan::{Input, describe, describe_taken_up, describe_wait, plan};
use reconciler::resolve::{Broken, resolve};
use sim::host::Host;

struct Lab {
    host: Host,
    ledger: Ledger,
    failures: Failures,
    now: Timestamp,
    ids: u64,
}

impl Lab {
    fn new() -> Self {
        let now = Timestamp::from_second(1_767_225_600).unwrap();
        Self {
            host: Host::new(),
            ledger: Ledger::default(),
            failures: Failures::new(),
            now,
            ids: 0,
        }
    }

    /// Passes until nothing is left to do, as text.
    fn settle(&mut self, desired: &Desired) -> String {
        for container in desired.containers.values() {
            self.host
                .sources
                .entry(container.spec.image.key())
                .or_insert(Some(1));
        }
        let mut text = String::new();
        for error in &desired.errors {
            text.push_str(&format!("{}: {}\n", error.at, error.message));
        }
        for number in 1..=20 {
            let plan = self.plan(desired);
            self.ledger = plan.ledger.clone();
            let quiet = plan.actions.is_empty() && plan.wake_at.is_none();
            if quiet && !self.waits_for_a_verdict() {
                text.push_str(&show(&plan, "end"));
                for (name, entry) in &plan.ledger.containers {
                    if let Some(rejected) = &entry.rejected {
                        text.push_str(&format!(
                            "  container {name}: the change was not taken: {}\n",
                            rejected.reason
                        ));
                    }
                }
                return text;
            }
            text.push_str(&show(&plan, &format!("pass {number}")));
            self.host.probe(None, self.now);
            for planned in plan.actions.iter().filter(|p| p.after.is_empty()) {
                let result = self.host.apply(&planned.action, self.now, false);
                if result.is_ok() {
                    sim::note(&mut self.ledger, &planned.action, self.now);
                }
                let noun = planned.action.noun();
                let count = self.failures.remove(&noun).map_or(1, |f| f.count + 1);
                if let Err(message) = result {
                    let (id, of) = planned.action.subject();
                    self.failures.insert(
                        noun,
                        Failure {
                            message,
                            id,
                            count,
                            at: self.now,
                            of,
                        },
                    );
                }
            }
            self.host.finish_jobs(&self.ledger, self.now);
            self.now = plan
                .wake_at
                .unwrap_or(self.now)
                .max(self.now + SignedDuration::from_millis(1));
        }
        text + "and so on\n"
    }

    fn waits_for_a_verdict(&self) -> bool {
        let mut states = self.host.health.values();
        states.any(|s| s.verdict == model::health::Verdict::Starting)
    }

    fn plan(&mut self, desired: &Desired) -> Plan {
        self.host.follow(&self.ledger);
        let (observed, in_flight) = (self.host.observe(), BTreeSet::new());
        let input = Input {
            desired,
            observed: &observed,
            ledger: &self.ledger,
            in_flight: &in_flight,
            failures: &self.failures,
            now: self.now,
        };
        let ids = &mut self.ids;
        let mut id = || {
            *ids += 1;
            ContainerId::from_bytes([u8::try_from(*ids).unwrap(); 32])
        };
        plan(&input, &mut id)
    }
}

fn show(plan: &Plan, title: &str) -> String {
    let mut text = format!("{title}:\n");
    for taken in &plan.taken_up {
        text.push_str(&format!("  {}\n", describe_taken_up(taken)));
    }
    for planned in &plan.actions {
        let after = if planned.after.is_empty() {
            String::new()
        } else {
            format!(" [after {:?}]", planned.after)
        };
        text.push_str(&format!("  {}{after}\n", describe(planned)));
    }
    for wait in &plan.waits {
        let until = if wait.until.is_some() {
            " [with a deadline]"
        } else {
            ""
        };
        text.push_str(&format!("  {}{until}\n", describe_wait(wait)));
    }
    text
}

/// Of `NAME.toml`, which stands for `web.toml`, or of all files in the folder `NAME`.
fn desired(folder: &Path, name: &str) -> Desired {
    let single = folder.join(format!("{name}.toml"));
    let mut files = vec![("web.toml".to_owned(), single.clone())];
    if !single.exists() {
        let all = std::fs::read_dir(folder.join(name)).unwrap().map(|e| e.unwrap());
        files = all
            .map(|e| (e.file_name().into_string().unwrap(), e.path()))
            .collect();
        files.sort();
    }
    let (mut parsed, mut broken) = (Vec::new(), Vec::new());
    for (file, path) in files {
        let text = std::fs::read_to_string(path).unwrap();
        match model::file::parse(&Source::new(file.clone(), text), &[]) {
            Outcome::Parsed(outcome) => parsed.push(outcome),
            Outcome::Broken {
                diagnostics,
                declares,
            } => broken.push(Broken {
                file,
                diagnostics,
                declares,
            }),
        }
    }
    resolve(&parsed, &broken, &Settings::default())
}

#[test]
fn plans_are_as_written_down() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/plan");
    let mut folders: Vec<_> = std::fs::read_dir(root)
        .unwrap()
        .map(|e| e.unwrap().path())
        .collect();
    folders.sort();
    assert!(folders.len() >= 36, "the golden plans are gone");
    let write = std::env::var_os("WHARF_GOLDEN").is_some();
    let mut wrong = Vec::new();
    for folder in folders {
        let mut lab = Lab::new();
        let before = desired(&folder, "before");
        assert!(
            before.errors.is_empty(),
            "{}: {:?}",
            folder.display(),
            before.errors
        );
        lab.settle(&before);
        let text = lab.settle(&desired(&folder, "after"));
        let golden = folder.join("plan.txt");
        if write {
            std::fs::write(&golden, &text).unwrap();
        } else if std::fs::read_to_string(&golden).unwrap_or_default() != text {
            wrong.push(format!("{}:\n{text}", folder.display()));
        }
    }
    assert!(
        wrong.is_empty(),
        "not as written down (WHARF_GOLDEN=write takes it over):\n{}",
        wrong.join("\n")
    );
}
