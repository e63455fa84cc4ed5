//! `wharf login`, `logout`, `search`, and pushes.

use std::io::{BufRead, IsTerminal, Read, Write};

use anyhow::{Context, bail};
use rustix::stdio::stdin;
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};
use serde_json::{Value, json};
use tokio::signal::unix::{SignalKind, signal};

use super::client::{Client, escaped};
use super::progress::with_progress;
use super::{DONE, LoginArgs, SearchArgs};
use crate::report::table;

/// Longest password that is read; it is a line, not a file.
const MOST: u64 = 64 * 1024;

/// `wharf login`.
pub async fn login(client: &Client, args: &LoginArgs) -> anyhow::Result<u8> {
    let user = match &args.username {
        Some(user) => user.clone(),
        None => asked("Username: ", "--username")?,
    };
    let password = match (&args.password, args.password_stdin) {
        (Some(password), _) => {
            eprintln!(
                "warning: a password on the command line is seen by everybody on this host; use --password-stdin"
            );
            password.clone()
        }
        (None, true) => piped()?,
        (None, false) => unseen().await?,
    };
    let body = json!({ "username": user, "password": password, "serveraddress": args.registry });
    let kept: Value = client.post_json("/wharf/v1/login", &body).await?;
    let text = |key: &str| kept[key].as_str().unwrap_or_default().to_owned();
    match kept["helper"].as_str() {
        Some(helper) => println!(
            "logged in to {}; docker-credential-{helper} keeps the password",
            text("registry")
        ),
        None => {
            eprintln!(
                "the password is kept in {}, readable by root alone but not encrypted",
                text("file")
            );
            println!("logged in to {}", text("registry"));
        }
    }
    Ok(DONE)
}

/// `wharf logout`.
pub async fn logout(client: &Client, registry: Option<&str>) -> anyhow::Result<u8> {
    let body = json!({ "serveraddress": registry.unwrap_or_default() });
    let forgotten: Value = client.post_json("/wharf/v1/logout", &body).await?;
    println!(
        "logged out of {}",
        forgotten["registry"].as_str().unwrap_or_default()
    );
    Ok(DONE)
}

/// `wharf search`.
pub async fn search(client: &Client, args: &SearchArgs) -> anyhow::Result<u8> {
    let path = format!(
        "/wharf/v1/search?term={}&limit={}",
        escaped(&args.term),
        args.limit
    );
    let found: Value = client.get(&path).await?;
    let hits = found["results"].as_array().cloned().unwrap_or_default();
    let errors = found["errors"].as_array().cloned().unwrap_or_default();
    let errors: Vec<&str> = errors.iter().filter_map(Value::as_str).collect();
    if hits.is_empty() && !errors.is_empty() {
        bail!("{}", errors.join("; "));
    }
    for error in errors {
        eprintln!("warning: {error}");
    }
    if args.json {
        println!("{}", serde_json::to_string_pretty(&hits)?);
        return Ok(DONE);
    }
    let row = |hit: &Value| {
        let text = |key: &str| hit[key].as_str().unwrap_or_default().to_owned();
        vec![
            format!("{}/{}", text("registry"), text("name")),
            hit["stars"].as_u64().unwrap_or_default().to_string(),
            if hit["official"] == json!(true) { "yes" } else { "" }.to_owned(),
            shortened(&text("description")),
        ]
    };
    let rows: Vec<Vec<String>> = hits.iter().map(row).collect();
    print!("{}", table(&["NAME", "STARS", "OFFICIAL", "DESCRIPTION"], &rows));
    Ok(DONE)
}

/// `wharf image push`.
pub async fn push(client: &Client, references: &[String]) -> anyhow::Result<u8> {
    for reference in references {
        // The name goes into the path with its slashes: it is a path there.
        let name: Vec<String> = reference.split('/').map(escaped).collect();
        let (name, tag) = tagged(&name.join("/"), reference);
        with_progress(client, &format!("/images/{name}/push?tag={tag}")).await?;
        println!("{reference}");
    }
    Ok(DONE)
}

/// The name without its tag, and the tag; Docker's default for one without.
fn tagged(escaped_name: &str, reference: &str) -> (String, String) {
    let last = reference.rsplit('/').next().unwrap_or_default();
    if last.contains('@') || last.contains(':') {
        return (escaped_name.to_owned(), String::new());
    }
    (escaped_name.to_owned(), "latest".to_owned())
}

fn shortened(text: &str) -> String {
    const MOST: usize = 60;
    match text.chars().count() > MOST {
        true => format!("{}…", text.chars().take(MOST - 1).collect::<String>()),
        false => text.to_owned(),
    }
}

fn asked(prompt: &str, flag: &str) -> anyhow::Result<String> {
    if !std::io::stdin().is_terminal() {
        bail!("there is no terminal to ask at: give {flag}");
    }
    eprint!("{prompt}");
    std::io::stderr().flush()?;
    let mut line = String::new();
    std::io::stdin().lock().take(MOST).read_line(&mut line)?;
    Ok(line.trim_end_matches(['\n', '\r']).to_owned())
}

/// All of the standard input but for the end of its line.
fn piped() -> anyhow::Result<String> {
    let mut text = String::new();
    let read = std::io::stdin().lock().take(MOST).read_to_string(&mut text);
    read.context("cannot read the password from the standard input")?;
    Ok(text.trim_end_matches(['\n', '\r']).to_owned())
}

/// Typed without being shown (termios(3), ECHO). Whoever interrupts that gets his terminal back as it was.
async fn unseen() -> anyhow::Result<String> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let quiet = Quiet::enter();
    let typing = tokio::task::spawn_blocking(|| asked("Password: ", "--password-stdin"));
    let number = tokio::select! {
        typed = typing => {
            drop(quiet);
            eprintln!();
            return typed?;
        }
        _ = interrupt.recv() => 2,
        _ = terminate.recv() => 15,
    };
    drop(quiet);
    eprintln!();
    // The thread that reads cannot be called back.
    std::process::exit(128 + number)
}

struct Quiet(Termios);

impl Quiet {
    /// None where there is no terminal: whoever asks finds out.
    fn enter() -> Option<Self> {
        let before = tcgetattr(stdin()).ok()?;
        let mut quiet = before.clone();
        quiet.local_modes.remove(LocalModes::ECHO);
        tcsetattr(stdin(), OptionalActions::Flush, &quiet).ok()?;
        Some(Self(before))
    }
}

impl Drop for Quiet {
    fn drop(&mut self) {
        // Nothing is left to be told to: the terminal is gone.
        let _ = tcsetattr(stdin(), OptionalActions::Flush, &self.0);
    }
}
