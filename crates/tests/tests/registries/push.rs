//! Pushes, logins and searches on a host, by `wharf` and by the stock docker client.

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use serde_json::Value;
use tests::client::Said;

use super::*;

/// The agent keeps logins in a file of the host's own.
fn auth_file(host: &Host) -> PathBuf {
    host.dir().join("auth.json")
}

impl Site {
    /// A registry that wants a login; nobody has one yet.
    fn closed() -> Self {
        let mut host = Host::new();
        let login = Options {
            login: true,
            ..Options::default()
        };
        let registry = registry(&host.ns, &host, login);
        let file = auth_file(&host).display().to_string();
        host.agent_env("REGISTRY_AUTH_FILE", &file);
        host.start_agent();
        Self { host, registry }
    }

    fn name(&self) -> String {
        format!("localhost:{}", self.registry.port())
    }
}

/// Runs it with that on its standard input.
fn with_input(mut command: Command, input: &str) -> Said {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    Said::from(child.wait_with_output().unwrap())
}

fn log_in(site: &Site, password: &str) -> Said {
    let mut command = site.host.wharf_command();
    command.args(["login", "-u", USER, "--password-stdin", &site.name()]);
    with_input(command, password)
}

#[test]
fn an_image_goes_to_another_name_and_comes_back() {
    let site = Site::new();
    let host = &site.host;
    let one = site.push("one", "team/app:1");
    host.wharf(["image", "pull", &one]).ok();
    let two = site.reference("other:2");
    host.wharf(["image", "tag", &one, &two]).ok();
    let pushed = host.wharf(["image", "push", &two]).ok();
    assert_eq!(pushed.stdout, format!("{two}\n"));
    for words in [
        "The push refers to repository",
        "Mounted from team/app",
        "its digest stays",
        "2: digest: sha256:",
    ] {
        assert!(pushed.stderr.contains(words), "{words}: {pushed:?}");
    }
    assert!(!pushed.stderr.contains(['\r', '\x1b']), "no terminal: {pushed:?}");
    // It is there for others, and here for containers.
    host.wharf(["image", "rm", &two]).ok();
    host.wharf(["image", "rm", &one]).ok();
    site.declare("web", &two, "");
    assert_eq!(site.word("web"), "one");
    let before = host.container("web");
    // Pushing what runs disturbs nobody.
    host.wharf(["image", "push", &two]).ok();
    assert_eq!(host.container("web").pid, before.pid);

    let unknown = host.wharf(["image", "push", &site.reference("none:1")]);
    assert_eq!((unknown.code, unknown.stdout.as_str()), (1, ""));
    assert!(
        unknown.stderr.contains("none:1 is here") && unknown.stderr.contains("image tag"),
        "{unknown:?}"
    );
    let mut command = host.wharf_command();
    command.args(["image", "push", &two]);
    let mut push = Pty::spawn(&command);
    push.until(&format!("{two}\r\n"));
    assert_eq!(push.end(), 0);
}

#[test]
fn the_docker_client_tags_pushes_and_searches() {
    let site = Site::new();
    let host = &site.host;
    let one = site.push("one", "team/app:1");
    host.docker(["pull", "-q", &one]).ok();
    let copies = ["copy:1", "copy:2"].map(|name| site.reference(name));
    for copy in &copies {
        host.docker(["tag", &one, copy]).ok();
    }
    let pushed = host.docker(["push", &copies[0]]).ok().stdout;
    assert!(
        pushed.contains("Mounted from team/app") && pushed.contains("1: digest: sha256:"),
        "{pushed}"
    );
    let all = host
        .docker(["push", "--all-tags", &site.reference("copy")])
        .ok()
        .stdout;
    assert!(
        all.contains("2: digest: sha256:") && all.contains("Layer already exists"),
        "{all}"
    );
    host.docker(["rmi", &copies[1]]).ok();
    host.docker(["pull", "-q", &copies[1]]).ok();
    let unknown = host.docker(["push", &site.reference("none:1")]);
    assert_ne!(unknown.code, 0);
    assert!(unknown.stderr.contains("none:1 is here"), "{unknown:?}");

    let term = site.reference("op");
    let found = host
        .docker(["search", "--format", "{{.Name}}", &term])
        .ok()
        .stdout;
    assert_eq!(found, format!("{}\n", site.reference("copy")));
    let nothing = host.wharf(["search", ""]);
    assert!(
        nothing.code == 1 && nothing.stderr.contains("the term is empty"),
        "{nothing:?}"
    );
    let all = host.wharf(["search", &site.name()]).ok().stdout;
    assert_eq!(all.lines().count(), 3, "{all}");
    let found = host.wharf(["search", &site.reference("p"), "--json"]).ok().stdout;
    let found: Value = serde_json::from_str(&found).unwrap();
    let names: Vec<_> = found
        .as_array()
        .unwrap()
        .iter()
        .map(|hit| hit["name"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["copy", "team/app"]);
    let table = host
        .wharf(["search", "--limit", "1", &site.reference("p")])
        .ok()
        .stdout;
    assert!(
        table.starts_with("NAME") && table.contains(&site.reference("copy")),
        "{table}"
    );
    assert!(!table.contains("team/app"), "{table}");
}

#[test]
fn a_login_opens_a_registry_to_the_agent() {
    let site = Site::closed();
    let (host, name) = (&site.host, site.name());
    let image = site.push("secret", "app:1");
    site.declare("web", &image, "");
    site.until_error("web", &[&image, "wharf login", &name]);
    let wrong = log_in(&site, "wrong");
    assert_eq!((wrong.code, wrong.stdout.as_str()), (1, ""));
    assert!(
        wrong.stderr.contains("refuses access") && !wrong.stderr.contains("wrong"),
        "{wrong:?}"
    );
    assert!(!auth_file(host).exists());
    let right = log_in(&site, &format!("{PASSWORD}\n")).ok();
    assert_eq!(right.stdout, format!("logged in to {name}\n"));
    let mode = fs::metadata(auth_file(host)).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert_eq!(site.word("web"), "secret", "it is tried again and let in");
    let copy = site.reference("copy:1");
    host.wharf(["image", "tag", &image, &copy]).ok();
    host.wharf(["image", "push", &copy]).ok();

    host.wharf(["logout", &name]).ok();
    let refused = host.wharf(["image", "pull", &image]);
    assert!(
        refused.code == 1 && refused.stderr.contains("refuses access"),
        "{refused:?}"
    );
    let twice = host.wharf(["logout", &name]);
    assert!(
        twice.code == 1 && twice.stderr.contains("has no login for it"),
        "{twice:?}"
    );
    // At a terminal it asks, and shows no password.
    let mut command = host.wharf_command();
    command.args(["login", &name]);
    let mut asking = Pty::spawn(&command);
    asking.until("Username: ");
    asking.type_in(format!("{USER}\n"));
    asking.until("Password: ");
    asking.type_in(format!("{PASSWORD}\n"));
    let said = asking.until(&format!("logged in to {name}"));
    assert!(!said.contains(PASSWORD), "{said:?}");
    assert_eq!(asking.end(), 0);
    let loud = host.wharf(["login", "-u", USER, "-p", PASSWORD, &name]).ok();
    assert!(
        loud.stderr.contains("warning: ") && loud.stderr.contains("--password-stdin"),
        "{loud:?}"
    );
    let log = host.log();
    assert!(
        !log.contains(PASSWORD) && !log.contains("dGVzdGVyOnNlY3JldA"),
        "{log}"
    );
}

#[test]
fn the_docker_client_s_own_login_is_the_client_s() {
    let site = Site::closed();
    let (host, name) = (&site.host, site.name());
    let image = site.push("secret", "app:1");
    let docker = |args: &[&str], input: &str| {
        let mut command = host.docker_command();
        command.args(args);
        with_input(command, input)
    };
    let wrong = docker(&["login", "-u", USER, "--password-stdin", &name], "wrong");
    assert!(
        wrong.code != 0 && wrong.stderr.contains("refuses access"),
        "{wrong:?}"
    );
    let right = docker(&["login", "-u", USER, "--password-stdin", &name], PASSWORD).ok();
    assert!(right.stdout.contains("Login Succeeded"), "{right:?}");
    assert!(!auth_file(host).exists(), "nothing is kept here");
    let pulled = docker(&["pull", "-q", &image], "").ok();
    assert!(pulled.stdout.contains("app:1"), "{pulled:?}");
    let copy = site.reference("copy:1");
    docker(&["tag", &image, &copy], "").ok();
    docker(&["push", &copy], "").ok();
    let refused = host.wharf(["image", "pull", &copy]);
    assert!(
        refused.code == 1 && refused.stderr.contains("refuses access"),
        "{refused:?}"
    );
    docker(&["logout", &name], "").ok();
    assert_ne!(docker(&["push", &copy], "").code, 0);
}
