//! `docker exec` by the stock client: codes, streams, terminals, errors as dockerd has them; and clients that are not
//! the stock one.
#![allow(clippy::unwrap_used)]

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::process::Stdio;

use model::status::State;
use serde_json::{Value, json};
use tests::Host;
use tests::client::Said;
use tests::process::{self, until_pid_of};
use tests::pty::Pty;

fn exec(host: &Host, args: &[&str]) -> Said {
    host.docker(std::iter::once("exec").chain(args.iter().copied()))
}

fn said(code: i32, stdout: &str, stderr: &str) -> Said {
    Said {
        code,
        stdout: stdout.to_owned(),
        stderr: stderr.to_owned(),
    }
}

#[test]
fn codes_streams_and_options() {
    let host = Host::with_box("");
    let sh = |line: &str| exec(&host, &["box", "sh", "-c", line]);
    assert_eq!(sh("echo out; echo err >&2; exit 7"), said(7, "out\n", "err\n"));
    assert_eq!(sh("kill -9 $$").code, 137);
    let some = ["-u", "1000:1000", "-w", "/srv", "-e", "A=b c", "box"];
    let some = exec(
        &host,
        &[&some[..], &["sh", "-c", "id -u; id -g; pwd; echo $A"]].concat(),
    );
    assert_eq!(some, said(0, "1000\n1000\n/srv\nb c\n", ""));
    let rights = |args: &[&str]| {
        exec(
            &host,
            &[args, &["box", "grep", "CapEff", "/proc/self/status"]].concat(),
        )
    };
    assert_ne!(rights(&[]).ok(), rights(&["--privileged"]).ok());
    for (program, code) in [("no-such-program", 127), ("/etc/passwd", 126)] {
        let failed = exec(&host, &["box", program]);
        assert_eq!((failed.code, failed.stdout.as_str()), (code, ""), "{failed:?}");
        assert!(failed.stderr.contains(program), "{failed:?}");
    }
    let failed = exec(&host, &["-d", "box", "no-such-program"]);
    assert!(
        failed.code != 0 && failed.stderr.contains("no-such-program"),
        "{failed:?}"
    );
    let failed = exec(&host, &["nobody", "true"]);
    assert_eq!(failed.code, 1, "{failed:?}");
    // Debian 12's client (20.10) words any 404 itself: "Error: No such container: nobody".
    let no_such = [
        "Error response from daemon: no container",
        "Error: No such container",
    ];
    assert!(
        no_such.iter().any(|start| failed.stderr.starts_with(start)) && failed.stderr.contains("nobody"),
        "{failed:?}"
    );
    exec(
        &host,
        &["-d", "box", "sh", "-c", "echo x >/detached; sleep 10051; :"],
    )
    .ok();
    let sleep = until_pid_of(&["sleep", "10051"]);
    assert_eq!(sh("cat /detached"), said(0, "x\n", ""));
    assert!(process::alive(sleep));
}

#[test]
fn standard_input_comes_in_and_ends() {
    let host = Host::with_box("");
    let mut client = host
        .docker_command()
        .args(["exec", "-i", "box", "sh", "-c", "wc -c; echo done; exit 3"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    client
        .stdin
        .take()
        .unwrap()
        .write_all(&vec![b'x'; 3 << 20])
        .unwrap();
    let out = client.wait_with_output().unwrap();
    assert_eq!(String::from_utf8(out.stdout).unwrap().trim(), "3145728\ndone");
    assert_eq!(out.status.code(), Some(3));
    // Far more than pipes and sockets hold, on both ways out.
    let much = exec(&host, &["box", "sh", "-c", "seq 1 300000; seq 1 300000 >&2"]).ok();
    assert_eq!(
        (much.stdout.lines().count(), much.stderr.lines().count()),
        (300_000, 300_000)
    );
    assert!(much.stdout.ends_with("\n300000\n") && much.stderr == much.stdout);
}

#[test]
fn a_terminal() {
    let host = Host::with_box("");
    let mut command = host.docker_command();
    command.args(["exec", "-it", "-e", "PS1=here> ", "box", "sh"]);
    let mut pty = Pty::spawn(&command);
    pty.until("here> ");
    pty.type_in("echo $((40+2)) answers; stty size\r");
    pty.until("42 answers");
    pty.until("24 80");
    pty.until("here> ");
    pty.type_in("sleep 10052\r");
    let sleep = until_pid_of(&["sleep", "10052"]);
    pty.type_in("\x03");
    pty.until("here> ");
    process::until_gone(sleep);
    pty.resize(33, 101);
    pty.type_in("while [ \"$(stty size)\" != '33 101' ]; do sleep 0.1; done; echo now $(stty size)\r");
    pty.until("now 33 101");
    pty.until("here> ");
    pty.type_in("exit 7\r");
    assert_eq!(pty.end(), 7);
    let shown = String::from_utf8_lossy(pty.shown()).into_owned();
    assert!(!shown.contains("failed to resize"), "{shown}");
    assert_eq!(pty.modes(), pty.modes_before());
    let without_keys = exec(&host, &["-t", "box", "tty"]);
    // That of the terminal before may not be free again yet.
    let device = without_keys.stdout.trim_end().strip_prefix("/dev/pts/");
    assert!(
        device.is_some_and(|n| n.parse::<u32>().is_ok()),
        "{without_keys:?}"
    );
    assert_eq!((without_keys.code, without_keys.stderr.as_str()), (0, ""));
}

#[test]
fn a_pause() {
    let host = Host::with_box("");
    assert_eq!(host.docker(["pause", "box"]).ok().stdout, "box\n");
    assert_eq!(host.container("box").state, State::Paused);
    let failed = exec(&host, &["box", "true"]);
    assert!(
        failed.code == 1 && failed.stderr.contains("is paused"),
        "{failed:?}"
    );
    let failed = host.docker(["pause", "box"]);
    assert!(failed.code == 1 && failed.stderr.contains("paused"), "{failed:?}");
    assert_eq!(host.docker(["unpause", "box"]).ok().stdout, "box\n");
    exec(&host, &["box", "true"]).ok();
    host.docker(["stop", "box"]).ok();
    let failed = exec(&host, &["box", "true"]);
    assert!(
        failed.code == 1 && failed.stderr.contains("is not running"),
        "{failed:?}"
    );
}

/// One request on a connection of its own; status, the headers' lines in lower case, body.
fn ask(host: &Host, method: &str, path: &str, more: &str, body: &Value) -> (u16, String, Vec<u8>) {
    let mut stream = UnixStream::connect(host.run_dir().join("wharf.sock")).unwrap();
    let body = body.to_string();
    let head = format!(
        "{method} {path} HTTP/1.0\r\nHost: x\r\n{more}Content-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all((head + &body).as_bytes()).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    let end = answer.windows(4).position(|w| w == b"\r\n\r\n").unwrap();
    let head = String::from_utf8_lossy(&answer[..end]).to_lowercase();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, head, answer[end + 4..].to_vec())
}

fn made(host: &Host, config: &Value) -> String {
    let (status, _, body) = ask(host, "POST", "/v1.47/containers/box/exec", "", config);
    assert_eq!(status, 201, "{}", String::from_utf8_lossy(&body));
    let body: Value = serde_json::from_slice(&body).unwrap();
    body["Id"].as_str().unwrap().to_owned()
}

#[test]
fn clients_that_only_read_get_the_output_as_a_body() {
    let host = Host::with_box("");
    let words = ["sh", "-c", "echo out; echo err >&2; exit 4"];
    let config = json!({ "AttachStdout": true, "AttachStderr": false, "Cmd": words });
    let id = made(&host, &config);
    let (status, head, body) = ask(
        &host,
        "POST",
        &format!("/exec/{id}/start"),
        "",
        &json!({ "Detach": false }),
    );
    assert_eq!(status, 200, "{head}");
    assert!(
        head.contains("application/vnd.docker.multiplexed-stream"),
        "{head}"
    );
    assert_eq!(body, b"\x01\0\0\0\0\0\0\x04out\n", "framed, and no stderr");
    let (_, _, seen) = ask(&host, "GET", &format!("/exec/{id}/json"), "", &Value::Null);
    let seen: Value = serde_json::from_slice(&seen).unwrap();
    let container = host.container("box").id.unwrap();
    assert_eq!(
        seen,
        json!({
            "ID": id, "ContainerID": container, "Running": false, "ExitCode": 4, "Pid": 0, "OpenStdin": false,
            "OpenStdout": true, "OpenStderr": false, "CanRemove": true, "DetachKeys": "",
            "ProcessConfig": { "tty": false, "entrypoint": "sh", "arguments": words[1..], "privileged": false, "user": "" },
        })
    );
    let id = made(
        &host,
        &json!({ "AttachStdout": true, "Tty": true, "Cmd": ["sh", "-c", "stty size"], "ConsoleSize": [5, 6] }),
    );
    let (_, head, body) = ask(&host, "POST", &format!("/exec/{id}/start"), "", &json!({}));
    assert!(head.contains("application/vnd.docker.raw-stream"), "{head}");
    assert_eq!(body, b"5 6\r\n");
}

#[test]
fn refusals_are_dockerds() {
    let host = Host::with_box("");
    let refused = |path: &str, body: Value, wanted: u16, words: &str| {
        let (status, _, answer) = ask(&host, "POST", path, "", &body);
        let text = String::from_utf8_lossy(&answer).into_owned();
        assert!(
            status == wanted && text.contains(words),
            "{path}: {status} {text}"
        );
    };
    refused(
        "/containers/nobody/exec",
        json!({ "Cmd": ["true"] }),
        404,
        "nobody",
    );
    refused(
        "/containers/box/exec",
        json!({ "Cmd": [] }),
        400,
        "No exec command specified",
    );
    refused("/containers/box/exec", json!({ "Cmd": 7 }), 400, "request's body");
    refused("/exec/none/start", json!({}), 404, "No such exec instance: none");
    refused(
        "/exec/none/resize?h=1&w=1",
        json!({}),
        404,
        "No such exec instance: none",
    );
    let id = made(&host, &json!({ "Cmd": ["true"] }));
    let start = format!("/exec/{id}/start");
    assert_eq!(ask(&host, "POST", &start, "", &json!({})).0, 200);
    refused(&start, json!({}), 409, "has already run");
    refused(
        &format!("/exec/{id}/resize?h=1&w=1"),
        json!({}),
        409,
        "is not running",
    );
    let id = made(&host, &json!({ "Cmd": ["true"] }));
    host.wharf(["stop", "box"]).ok();
    refused(&format!("/exec/{id}/start"), json!({}), 409, "not running");
}
