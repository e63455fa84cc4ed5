//! One line a person reads for an action or a wait.

use model::plan::{Op, Planned, Reason, Wait};

/// `~ container web: ports 8080:80 → 8081:80 (web.toml:6)`.
pub fn describe(planned: &Planned) -> String {
    line(planned.op, &planned.action.noun().to_string(), &planned.reasons)
}

/// `? container web: waits for image …`.
pub fn describe_wait(wait: &Wait) -> String {
    line(Op::Wait, &wait.noun.to_string(), &wait.reasons)
}

fn line(op: Op, noun: &str, reasons: &[Reason]) -> String {
    let why: Vec<String> = reasons.iter().map(reason).collect();
    format!("{} {noun}: {}", op.mark(), why.join("; "))
}

fn reason(reason: &Reason) -> String {
    let mut text = reason.field.clone();
    if let (Some(from), Some(to)) = (&reason.from, &reason.to) {
        text.push_str(&format!(" {from} → {to}"));
    }
    match (&reason.file, reason.line) {
        (Some(file), Some(line)) => text.push_str(&format!(" ({file}:{line})")),
        (Some(file), None) => text.push_str(&format!(" ({file})")),
        _ => {}
    }
    text
}
