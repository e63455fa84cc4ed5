//! Commands that are clients of the API socket.

use std::io::Write;
use std::time::Duration;

use anyhow::{Context, bail};
use model::event::Event;
use model::status::Status;
use serde_json::Value;

use super::client::{Client, escaped};
use super::{
    Command, DONE, LogsArgs, NOT_CONVERGED, NounCommand, cp, exec, listing, made, offline, prune, registries,
    stores,
};
use crate::api::WaitAnswer;
use crate::places::Places;
use crate::report::PlanReport;

/// Runs one client command.
pub fn run(places: &Places, command: Command) -> anyhow::Result<u8> {
    let client = Client::new(places.socket());
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start")?;
    runtime.block_on(dispatch(&client, command))
}

async fn dispatch(client: &Client, command: Command) -> anyhow::Result<u8> {
    match command {
        Command::Plan { json, .. } => {
            offline::print_plan(&client.get::<PlanReport>("/wharf/v1/plan").await?, json)
        }
        Command::Status { name, json } => status(client, name.as_deref(), json).await,
        Command::Wait { names, timeout, json } => wait(client, &names, timeout, json).await,
        Command::Reload { accept_empty, json } => reload(client, accept_empty, json).await,
        Command::Ps { all, quiet, json } => ps(client, all, quiet, json).await,
        Command::Inspect { names } => inspect(client, &names).await,
        Command::Port { name, port, json } => self::port(client, &name, port.as_deref(), json).await,
        Command::Logs(args) => logs(client, &args).await,
        Command::Events {
            follow,
            since,
            until,
            json,
        } => events(client, follow, [since.as_deref(), until.as_deref()], json).await,
        Command::Start { names } => each(client, &names, "start", "").await,
        Command::Stop { names } => each(client, &names, "stop", "").await,
        Command::Restart { names, time } => {
            let query = time.map(|t| format!("?t={t}")).unwrap_or_default();
            each(client, &names, "restart", &query).await
        }
        Command::Kill { names, signal } => {
            each(client, &names, "kill", &format!("?signal={}", escaped(&signal))).await
        }
        Command::Pause { names } => each(client, &names, "pause", "").await,
        Command::Unpause { names } => each(client, &names, "unpause", "").await,
        Command::Exec(args) => Ok(exec::run(client, &args).await),
        Command::Cp(args) => cp::cp(client, &args).await,
        Command::Diff { name, json } => made::diff(client, &name, json).await,
        Command::Export { name, output } => made::export(client, &name, &output).await,
        Command::Commit(args) => made::commit(client, &args).await,
        Command::Network(NounCommand::Ls { json }) => {
            list(
                client,
                json,
                |s| serde_json::to_value(s.networks),
                listing::networks,
            )
            .await
        }
        Command::Network(NounCommand::Inspect { name }) => inspect_network(client, &name).await,
        Command::Image(command) => stores::image(client, command).await,
        Command::Volume(command) => stores::volume(client, command).await,
        Command::Login(args) => registries::login(client, &args).await,
        Command::Logout { registry } => registries::logout(client, registry.as_deref()).await,
        Command::Search(args) => registries::search(client, &args).await,
        Command::Prune(args) => prune::prune(client, &args).await,
        Command::Agent(_)
        | Command::Validate { .. }
        | Command::Schema
        | Command::Completions { .. }
        | Command::Man { .. } => bail!("this command needs no agent"),
    }
}

async fn status(client: &Client, name: Option<&str>, json: bool) -> anyhow::Result<u8> {
    let mut status: Status = client.get("/wharf/v1/status").await?;
    let mut converged = status.converged;
    if let Some(name) = name {
        status.containers.retain(|c| c.name == name || c.service == name);
        if status.containers.is_empty() {
            bail!("no container {name:?}; `wharf status` lists them");
        }
        status.errors.clear();
        converged = status.containers.iter().all(reconciler::status::counts);
    }
    if json {
        println!("{}", serde_json::to_string_pretty(&status)?);
    } else {
        print!("{}", listing::status(&status, name.is_some()));
    }
    Ok(if converged { DONE } else { NOT_CONVERGED })
}

async fn wait(client: &Client, names: &[String], timeout: Duration, json: bool) -> anyhow::Result<u8> {
    let names: Vec<String> = names.iter().map(|n| escaped(n)).collect();
    let path = format!(
        "/wharf/v1/wait?names={}&timeout_ms={}",
        names.join(","),
        timeout.as_millis()
    );
    let answer: WaitAnswer = client.get(&path).await?;
    if json {
        println!("{}", serde_json::to_string(&answer)?);
    }
    if answer.reached {
        return Ok(DONE);
    }
    for line in &answer.missing {
        eprintln!("{line}");
    }
    eprintln!(
        "error: not there after {}",
        model::units::format_duration(timeout)
    );
    Ok(NOT_CONVERGED)
}

async fn reload(client: &Client, accept_empty: bool, json: bool) -> anyhow::Result<u8> {
    let brief = !json;
    let path = format!("/wharf/v1/reload?accept_empty={accept_empty}&brief={brief}");
    let status: Status = client.post(&path).await?;
    if json {
        println!("{}", serde_json::to_string_pretty(&status)?);
    }
    for error in &status.errors {
        eprintln!("{}: {}", error.at, error.message);
    }
    Ok(DONE)
}

async fn ps(client: &Client, all: bool, quiet: bool, json: bool) -> anyhow::Result<u8> {
    let rows: Vec<Value> = client
        .get(&format!("/containers/json?all={}", u8::from(all)))
        .await?;
    if json {
        println!("{}", serde_json::to_string_pretty(&rows)?);
    } else if quiet {
        for id in rows.iter().filter_map(|r| r["Id"].as_str()) {
            println!("{}", &id[..id.len().min(12)]);
        }
    } else {
        print!("{}", listing::ps(&rows));
    }
    Ok(DONE)
}

async fn inspect(client: &Client, names: &[String]) -> anyhow::Result<u8> {
    let mut found = Vec::new();
    for name in names {
        found.push(
            client
                .get::<Value>(&format!("/containers/{}/json", escaped(name)))
                .await?,
        );
    }
    println!("{}", serde_json::to_string_pretty(&found)?);
    Ok(DONE)
}

async fn port(client: &Client, name: &str, port: Option<&str>, json: bool) -> anyhow::Result<u8> {
    let status: Status = client.get("/wharf/v1/status").await?;
    let Some(container) = status.containers.iter().find(|c| c.name == name) else {
        bail!("no container {name:?}; `wharf ps -a` lists them");
    };
    let wanted = port.map(|p| {
        if p.contains('/') {
            p.to_owned()
        } else {
            format!("{p}/tcp")
        }
    });
    let shown = |p: &&model::status::PortStatus| {
        wanted
            .as_ref()
            .is_none_or(|w| *w == format!("{}/{}", p.container, p.protocol))
    };
    let ports: Vec<_> = container.ports.iter().filter(shown).collect();
    if let (Some(wanted), true) = (&wanted, ports.is_empty()) {
        bail!("port {wanted} of {name} is not published");
    }
    if json {
        println!("{}", serde_json::to_string_pretty(&ports)?);
    } else {
        for p in ports {
            match wanted {
                Some(_) => println!("{}", listing::host_side(p)),
                None => println!("{}/{} -> {}", p.container, p.protocol, listing::host_side(p)),
            }
        }
    }
    Ok(DONE)
}

async fn logs(client: &Client, args: &LogsArgs) -> anyhow::Result<u8> {
    let mut path = format!("/containers/{}/logs?stdout=1&stderr=1", escaped(&args.name));
    path += &format!(
        "&follow={}&timestamps={}",
        u8::from(args.follow),
        u8::from(args.timestamps)
    );
    if let Some(tail) = args.tail {
        path += &format!("&tail={tail}");
    }
    if let Some(since) = &args.since {
        path += &format!("&since={}", since_seconds(since)?);
    }
    let mut frames = listing::Frames::default();
    client
        .stream(&path, |bytes| {
            frames.feed(bytes, |stderr, data| {
                if stderr {
                    std::io::stderr().write_all(data)
                } else {
                    std::io::stdout().write_all(data)
                }
            })?;
            std::io::stdout().flush().context("cannot write the output")
        })
        .await?;
    Ok(DONE)
}

/// RFC 3339, seconds since 1970, or a duration ago; as seconds with a fraction.
fn since_seconds(text: &str) -> anyhow::Result<String> {
    seconds("--since", text)
}

fn seconds(flag: &str, text: &str) -> anyhow::Result<String> {
    if let Ok(time) = text.parse::<jiff::Timestamp>() {
        return Ok(format!("{}.{:09}", time.as_second(), time.subsec_nanosecond()));
    }
    if text.parse::<f64>().is_ok() {
        return Ok(text.to_owned());
    }
    let ago = model::units::parse_duration(text)
        .with_context(|| format!("{flag} {text}: write a time (2026-01-31T12:00:00Z) or a duration (10m)"))?;
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .context("the clock is before 1970")?;
    let then = now.saturating_sub(ago);
    Ok(format!("{}.{:09}", then.as_secs(), then.subsec_nanos()))
}

async fn events(
    client: &Client,
    follow: bool,
    [since, until]: [Option<&str>; 2],
    json: bool,
) -> anyhow::Result<u8> {
    let mut path = format!("/wharf/v1/events?follow={follow}");
    for (name, text) in [("since", since), ("until", until)] {
        if let Some(text) = text {
            path += &format!("&{name}={}", seconds(&format!("--{name}"), text)?);
        }
    }
    let mut rest = Vec::new();
    let print = |line: &[u8]| -> anyhow::Result<()> {
        if json {
            println!("{}", String::from_utf8_lossy(line));
        } else {
            let event: Event =
                serde_json::from_slice(line).context("the agent sent an event this wharf does not know")?;
            println!(
                "{} {} {} {}: {}",
                event.time, event.kind, event.name, event.what, event.reason
            );
        }
        Ok(())
    };
    client
        .stream(&path, |bytes| {
            rest.extend_from_slice(bytes);
            while let Some(end) = rest.iter().position(|&b| b == b'\n') {
                let line: Vec<u8> = rest.drain(..=end).collect();
                print(&line[..end])?;
            }
            Ok(())
        })
        .await?;
    Ok(DONE)
}

/// One after the other; a name is printed when it is so, as docker does.
async fn each(client: &Client, names: &[String], what: &str, query: &str) -> anyhow::Result<u8> {
    let mut failed = 0;
    for name in names {
        match client
            .command(&format!("/containers/{}/{what}{query}", escaped(name)))
            .await
        {
            Ok(()) => println!("{name}"),
            Err(e) if names.len() == 1 => return Err(e),
            Err(e) => {
                eprintln!("{name}: {e:#}");
                failed += 1;
            }
        }
    }
    if failed > 0 {
        bail!("{failed} of {} could not be done", names.len());
    }
    Ok(DONE)
}

pub(super) async fn list(
    client: &Client,
    json: bool,
    part: impl Fn(Status) -> serde_json::Result<Value>,
    text: impl Fn(&Status) -> String,
) -> anyhow::Result<u8> {
    let status: Status = client.get("/wharf/v1/status").await?;
    if json {
        println!("{}", serde_json::to_string_pretty(&part(status)?)?);
    } else {
        print!("{}", text(&status));
    }
    Ok(DONE)
}

async fn inspect_network(client: &Client, name: &str) -> anyhow::Result<u8> {
    let status: Status = client.get("/wharf/v1/status").await?;
    let Some(network) = status.networks.iter().find(|n| n.name == name) else {
        bail!("no network {name:?}; `wharf network ls` lists them");
    };
    println!("{}", serde_json::to_string_pretty(network)?);
    Ok(DONE)
}
