//! Credential helpers of docker's: a program `docker-credential-NAME` that is asked on its standard input and answers with
//! JSON (docker/docker-credential-helpers, "Development").

use std::io::{Read, Write};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

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

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Kept<'a> {
    #[serde(rename = "ServerURL")]
    server: &'a str,
    username: &'a str,
    secret: &'a str,
}

/// What the helper knows of the server: nothing, or why it cannot say.
pub fn ask(name: &str, server: &str) -> Result<Option<Credentials>, String> {
    let program = program(name)?;
    let Some(text) = said(&program, "get", server)? else {
        return Ok(None);
    };
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

/// Has the helper keep a user and password.
pub fn store(name: &str, server: &str, username: &str, secret: &str) -> Result<(), String> {
    let kept = Kept {
        server,
        username,
        secret,
    };
    let text = serde_json::to_string(&kept).map_err(|e| e.to_string())?;
    said(&program(name)?, "store", &text).map(drop)
}

/// Has the helper forget the server. False where it did not know it.
pub fn erase(name: &str, server: &str) -> Result<bool, String> {
    said(&program(name)?, "erase", server).map(|said| said.is_some())
}

fn program(name: &str) -> Result<String, String> {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    match !name.is_empty() && name.chars().all(fits) {
        true => Ok(format!("docker-credential-{name}")),
        false => Err(format!("{name:?} is no name of a credential helper")),
    }
}

/// What it says to that; none where it does not know the server.
fn said(program: &str, verb: &str, input: &str) -> Result<Option<String>, String> {
    let said = run(program, verb, input).map_err(|e| format!("{program}: {e}"))?;
    match said {
        None => Err(format!(
            "{program} does not answer within {} s",
            PATIENCE.as_secs()
        )),
        Some((true, text)) => Ok(Some(text)),
        Some((false, text)) if text.contains(NOT_FOUND) => Ok(None),
        Some((false, text)) => Err(format!("{program}: {}", tame(text.trim()))),
    }
}

/// Whether it succeeded, and what it said; none where that takes too long.
fn run(program: &str, verb: &str, input: &str) -> std::io::Result<Option<(bool, String)>> {
    let mut child = Command::new(program)
        .arg(verb)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        // It is no part of the service.
        .env_remove("NOTIFY_SOCKET")
        .spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        // One that does not care to read may still answer.
        drop(stdin.write_all(input.as_bytes()));
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
