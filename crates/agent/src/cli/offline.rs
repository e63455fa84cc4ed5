//! Commands that need no agent.

use std::path::Path;

use anyhow::Context;
use clap::Command;
use jiff::Timestamp;
use model::desired::Desired;
use model::diagnostic::Diagnostic;
use model::ledger::Ledger;
use model::observed::Look;
use model::spec::Settings;
use reconciler::plan::Input;
use serde_json::json;

use super::{DONE, FAILED, TO_DO, colour};
use crate::config_dir::{self, Contents};
use crate::report::PlanReport;
use crate::{contents, engine, observe};

/// `wharf validate [DIR]`.
pub fn validate(dir: &Path, settings: &Path, json: bool) -> anyhow::Result<u8> {
    let (contents, desired) = read(dir, settings);
    let errors = &desired.errors;
    if json {
        println!("{}", json!({ "valid": errors.is_empty(), "errors": errors }));
    } else if errors.is_empty() {
        let count = desired.containers.len();
        println!(
            "{}: {} files, {count} containers, no errors",
            dir.display(),
            contents.files.len()
        );
    } else {
        print!("{}", model::file::render(errors, &contents.sources, colour()));
        eprintln!("error: {} in {}", plural(errors.len(), "error"), dir.display());
    }
    Ok(if errors.is_empty() { DONE } else { FAILED })
}

fn plural(n: usize, word: &str) -> String {
    if n == 1 {
        format!("1 {word}")
    } else {
        format!("{n} {word}s")
    }
}

/// `wharf plan --offline [DIR]`: against a host where nothing is.
pub fn plan(dir: &Path, settings: &Path, json: bool) -> anyhow::Result<u8> {
    let (contents, desired) = read(dir, settings);
    let told = model::file::render(&desired.errors, &contents.sources, colour() && !json);
    if json {
        eprint!("{told}");
    } else {
        print!("{told}");
    }
    let mut observed = observe::empty();
    // What the files of some host hold is for that host to say.
    observed.contents = contents::sources(&desired, &Ledger::default())
        .into_keys()
        .map(|key| (key, Look::Known(String::new())))
        .collect();
    let input = Input {
        desired: &desired,
        observed: &observed,
        ledger: &Ledger {
            version: 1,
            ..Ledger::default()
        },
        in_flight: &Default::default(),
        failures: &Default::default(),
        now: Timestamp::now(),
    };
    let plan = reconciler::plan::plan(&input, &mut engine::fresh_id);
    let code = print_plan(&PlanReport::of(&plan), json)?;
    if !desired.errors.is_empty() {
        eprintln!(
            "error: {} in {}",
            plural(desired.errors.len(), "error"),
            dir.display()
        );
    }
    Ok(if desired.errors.is_empty() { code } else { FAILED })
}

/// Prints a plan; 4 when there is something in it.
pub fn print_plan(report: &PlanReport, json: bool) -> anyhow::Result<u8> {
    if json {
        println!("{}", serde_json::to_string_pretty(report)?);
    } else if report.actions.is_empty() {
        println!("nothing to do");
    } else {
        for line in &report.actions {
            println!("{}", line.text);
        }
    }
    Ok(if report.actions.is_empty() { DONE } else { TO_DO })
}

/// Reads a directory and the settings into a desired state, every error in it.
fn read(dir: &Path, settings: &Path) -> (Contents, Desired) {
    let (settings, settings_errors) = match config_dir::read_settings(settings) {
        Ok(settings) => (settings, Vec::new()),
        Err(errors) => (Settings::default(), errors),
    };
    let contents = config_dir::read(dir, &settings.search);
    let mut desired = reconciler::resolve::resolve(&contents.files, &contents.broken, &settings);
    let whole: Vec<Diagnostic> = settings_errors
        .into_iter()
        .chain(contents.unreadable.clone())
        .collect();
    desired.errors.splice(0..0, whole);
    (contents, desired)
}

/// `wharf schema`.
pub fn schema() -> anyhow::Result<u8> {
    println!("{}", serde_json::to_string_pretty(&model::file::schema())?);
    Ok(DONE)
}

/// `wharf man DIR`.
pub fn man(command: Command, dir: &Path) -> anyhow::Result<u8> {
    std::fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    clap_mangen::generate_to(command, dir)
        .with_context(|| format!("cannot write manual pages into {}", dir.display()))?;
    Ok(DONE)
}
