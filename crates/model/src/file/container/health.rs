//! `healthcheck`: `false`, or a table with exactly one probe.

use std::time::Duration;

use crate::spec::{Healthcheck, HealthcheckChoice, OnFailure, Probe};

use super::super::reader::{Item, Table};
use super::super::tree::Value;

const PROBES: [&str; 4] = ["exec", "shell", "http", "tcp"];

pub(super) fn read(item: &Item<'_>) -> Option<HealthcheckChoice> {
    match &item.node.value {
        Value::Boolean(false) => Some(HealthcheckChoice::Off),
        Value::Table(_) => {
            let table = item.clone().table()?;
            declared(&table).map(HealthcheckChoice::Declared)
        }
        Value::Boolean(true) => {
            item.fault("is true", "take it out to use the image's, or write a table");
            None
        }
        _ => {
            item.mismatch("false or a table", None);
            None
        }
    }
}

fn declared(table: &Table<'_>) -> Option<Healthcheck> {
    let probe = probe(table);
    let mut interval = Duration::from_secs(30);
    table.set("interval", &mut interval, Item::some_duration);
    let mut timeout = Duration::from_secs(30);
    table.set("timeout", &mut timeout, Item::some_duration);
    let mut retries = 3;
    table.set("retries", &mut retries, Item::integer);
    let mut start_period = Duration::ZERO;
    table.set("start_period", &mut start_period, Item::duration);
    let mut start_interval = interval.min(Duration::from_secs(1));
    table.set("start_interval", &mut start_interval, Item::some_duration);
    let mut on_failure = OnFailure::Restart;
    table.set("on_failure", &mut on_failure, |item| {
        Some(match item.word()?.0 {
            "stop" => OnFailure::Stop,
            "none" => OnFailure::None,
            _ => OnFailure::Restart,
        })
    });
    Some(Healthcheck {
        probe: probe?,
        interval,
        timeout,
        retries,
        start_period,
        start_interval,
        on_failure,
    })
}

fn probe(table: &Table<'_>) -> Option<Probe> {
    let written: Vec<&str> = PROBES.into_iter().filter(|key| table.has(key)).collect();
    match written[..] {
        [_] => {}
        [] => table.fault(
            None,
            "a health check needs a probe".to_owned(),
            "write one of exec, shell, http, tcp",
        ),
        [_, second, ..] => {
            let list = written.join(", ");
            table.fault(
                Some(second),
                format!("a health check has exactly one probe, not {list}"),
                "keep one of them",
            );
        }
    }
    let mut probe = None;
    table.fill("exec", &mut probe, exec);
    table.set("shell", &mut probe, |item| Some(item.filled().map(Probe::Shell)));
    table.set("tcp", &mut probe, |item| Some(item.integer().map(Probe::Tcp)));
    table.set("http", &mut probe, |_| Some(http(table)));
    probe
}

fn exec(item: &Item<'_>) -> Option<Probe> {
    let words = item.each(Item::string)?;
    if words.first().is_none_or(String::is_empty) {
        item.fault("is empty", "write the program and its arguments");
        return None;
    }
    Some(Probe::Exec(words))
}

fn http(table: &Table<'_>) -> Option<Probe> {
    let table = table.table("http")?;
    let mut port = None;
    table.fill("port", &mut port, Item::integer);
    if !table.has("port") {
        table.missing("port", "the port inside that answers");
    }
    let mut path = "/".to_owned();
    table.set("path", &mut path, |item| {
        let text = item.filled()?;
        if !text.starts_with('/') || text.contains(|c: char| c.is_whitespace() || c.is_control()) {
            item.fault(format!("must be a path like \"/health\", not {text:?}"), "");
        }
        Some(text)
    });
    let mut status = vec![200];
    table.set("status", &mut status, |item| item.each(Item::integer));
    let mut host = "127.0.0.1".to_owned();
    table.set("host", &mut host, |item| {
        let text = item.filled()?;
        if text != "localhost" && text.parse::<std::net::IpAddr>().is_err() {
            item.fault(
                format!("must be an address inside the container, not {text:?}"),
                "write 127.0.0.1 or the address it listens on",
            );
        }
        Some(text)
    });
    Some(Probe::Http {
        port: port?,
        path,
        status,
        host,
    })
}
