//! Credential helpers of docker's: a program `docker-credential-NAME` that is asked on its standard input and answers with
//! JSON (docker/docker-credential-helpers, "Development").

use std::io::{Read, Write};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use serde::Deserialize;

use super::Credentials;
use crate::registry::error::tame;

/// How long one may take: some ask a server.
const PATIENCE: Duration = Duration::from_secs(30);
/// Most bytes of its answer.
const MAX_ANSWER: u64 = 1 << 20;
/// What a helper says where it knows nothing of a server.
const NOT_FOUND: &str = "credentials not found";
/// The user name that stands for an identity token.
const TOKEN: &str = "<token>";

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    username: String,
    secret: String,
}

/// What the helper knows of the server: nothing, or why it cannot say.
pub fn ask(name: &str, server: &str) -> Result<Option<Credentials>, String> {
    let program = format!("docker-credential-{name}");
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if name.is_empty() || !name.chars().all(fits) {
        return Err(format!("{name:?} is no name of a credential helper"));
    }
    let said = run(&program, server).map_err(|e| format!("{program}: {e}"))?;
    let (succeeded, text) =
        said.ok_or_else(|| format!("{program} does not answer within {} s", PATIENCE.as_secs()))?;
    if !succeeded {
        return match text.contains(NOT_FOUND) {
            true => Ok(None),
            false => Err(format!("{program}: {}", tame(text.trim()))),
        };
    }
    // What it said is a secret, so it is not told.
    let answer: Answer =
        serde_json::from_str(&text).map_err(|_| format!("{program} does not answer in JSON as it should"))?;
    Ok(Some(match answer.username.as_str() {
        TOKEN => Credentials::Identity(answer.secret),
        _ => Credentials::Password {
            user: answer.username,
            password: answer.secret,
        },
    }))
}

/// Whether it succeeded, and what it said; none where that takes too long.
fn run(program: &str, server: &str) -> std::io::Result<Option<(bool, String)>> {
    let mut child = Command::new(program)
        .arg("get")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        // It is no part of the service.
        .env_remove("NOTIFY_SOCKET")
        .spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        // One that does not care to read may still answer.
        drop(stdin.write_all(server.as_bytes()));
    }
    let text = answer(&mut child);
    if text.is_none() {
        child.kill()?;
    }
    let status = child.wait()?;
    Ok(text.map(|text| (status.success(), text)))
}

/// Read on the side, since a child of the helper's may keep its end open. None where it does not end in time.
fn answer(child: &mut Child) -> Option<String> {
    let stdout = child.stdout.take()?;
    let (tell, told) = mpsc::channel();
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        // What breaks off is no JSON.
        drop(stdout.take(MAX_ANSWER).read_to_end(&mut bytes));
        // Whoever asked may have gone.
        drop(tell.send(String::from_utf8_lossy(&bytes).into_owned()));
    });
    told.recv_timeout(PATIENCE).ok()
}
