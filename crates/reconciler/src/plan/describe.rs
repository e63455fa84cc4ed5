//! One line a person reads for an action or a wait.

use model::action::Action;
use model::digest::Digest;
use model::plan::{Op, Planned, Reason, TakenUp, Wait};

/// `~ container web: ports 8080:80 → 8081:80 (web.toml:6)`.
pub fn describe(planned: &Planned) -> String {
    let text = line(planned.op, &planned.action.noun().to_string(), &planned.reasons);
    match step(planned) {
        Some(step) => format!("{text} [{step}]"),
        None => text,
    }
}

/// Which step of a replacement it is, as one is several actions for the same reason. What comes before all of them, and
/// ends nothing, has no word.
pub fn step(planned: &Planned) -> Option<&'static str> {
    let step = match planned.action {
        Action::StopContainer { .. } => "stop",
        Action::StartContainer { .. } => "start",
        Action::RemoveNetwork { .. } => "remove",
        Action::ApplyNetwork { .. } => "create",
        _ => return None,
    };
    (planned.op == Op::Replace).then_some(step)
}

/// `~ container web: labels tier = front → tier = back (web.toml:3)`.
pub fn describe_taken_up(taken: &TakenUp) -> String {
    line(Op::Update, &taken.noun.to_string(), &taken.reasons)
}

/// `? container web: waits for image …`.
pub fn describe_wait(wait: &Wait) -> String {
    line(Op::Wait, &wait.noun.to_string(), &wait.reasons)
}

fn line(op: Op, noun: &str, reasons: &[Reason]) -> String {
    format!("{} {noun}: {}", op.mark(), self::reasons(reasons))
}

/// `ports 8080:80 → 8081:80 (web.toml:6); labels …`.
pub fn reasons(reasons: &[Reason]) -> String {
    let why: Vec<String> = reasons.iter().map(reason).collect();
    why.join("; ")
}

fn reason(reason: &Reason) -> String {
    let mut text = reason.field.clone();
    if let (Some(from), Some(to)) = (&reason.from, &reason.to) {
        text.push_str(&format!(" {} → {}", short(from), short(to)));
    }
    match (&reason.file, reason.line) {
        (Some(file), Some(line)) => text.push_str(&format!(" ({file}:{line})")),
        (Some(file), None) => text.push_str(&format!(" ({file})")),
        _ => {}
    }
    text
}

/// A digest by its beginning, as people compare them; anything else as it is.
fn short(text: &str) -> &str {
    let whole = text.parse::<Digest>().is_ok();
    text.get(.."sha256:".len() + 12).filter(|_| whole).unwrap_or(text)
}
