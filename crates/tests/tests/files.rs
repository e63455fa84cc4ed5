//! Files of containers: cp, diff, export, commit, import; by our client and by the stock docker client.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use model::status::State;
use serde_json::Value;
use tests::Host;
use tests::client::Said;

/// A shell line in a running container.
fn sh(host: &Host, name: &str, line: &str) -> String {
    host.wharf(["exec", name, "sh", "-c", line]).ok().stdout
}

fn cp(host: &Host, args: &[&str]) -> Said {
    host.wharf(std::iter::once("cp").chain(args.iter().copied()))
}

fn docker_cp(host: &Host, args: &[&str]) -> Said {
    host.docker(std::iter::once("cp").chain(args.iter().copied()))
}

/// A directory of the test's own.
fn scratch(host: &Host, name: &str) -> PathBuf {
    let dir = host.dir().join(name);
    fs::create_dir_all(&dir).unwrap();
    dir
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A shell line with the host's directories in its environment; `$WHARF` is the program.
fn pipe(host: &Host, line: &str) -> Said {
    let mut command = host.ns.command("bash");
    command
        .args(["-o", "pipefail", "-c", line])
        .env("WHARF", tests::binary::wharf())
        .env("WHARF_RUN_DIR", host.run_dir())
        .stdin(Stdio::null());
    Said::from(command.output().unwrap())
}

/// Both clients, a container that runs and one that is stopped.
#[test]
fn copies_go_where_dockers_go() {
    let host = Host::with_box("volumes = [\"data:/data\"]");
    sh(
        &host,
        "box",
        "mkdir -p /srv/src/sub; echo one >/srv/src/one; echo two >/srv/src/sub/two; ln -s /srv/src /srv/link; \
         ln -s one /srv/src/l; chown 1000:1000 /srv/src/one; chmod 4755 /srv/src/one; echo v >/data/v",
    );
    for stopped in [false, true] {
        if stopped {
            host.wharf(["stop", "box"]).ok();
        }
        for docker in [false, true] {
            let copy = |args: &[&str]| match docker {
                true => docker_cp(&host, args),
                false => cp(&host, args),
            };
            let tag = format!("{stopped}-{docker}");
            let to = scratch(&host, &tag);
            let at = |name: &str| text(&to.join(name)).to_owned();
            // Out: a file to a name, a directory to nothing and into one, what is in it, a link and what it leads to.
            copy(&["box:/srv/src/one", &at("file")]).ok();
            assert_eq!(fs::read_to_string(to.join("file")).unwrap(), "one\n");
            copy(&["box:/srv/src", &at("new")]).ok();
            copy(&["box:/srv/src", &at("new")]).ok();
            copy(&["box:/srv/src/.", &at("inside")]).ok();
            for path in ["new/sub/two", "new/src/sub/two", "inside/sub/two"] {
                assert_eq!(
                    fs::read_to_string(to.join(path)).unwrap(),
                    "two\n",
                    "{tag} {path}"
                );
            }
            assert_eq!(fs::read_link(to.join("new/l")).unwrap(), Path::new("one"));
            copy(&["box:/srv/link", &at("link")]).ok();
            assert!(to.join("link").symlink_metadata().unwrap().is_symlink(), "{tag}");
            copy(&["-L", "box:/srv/link", &at("followed")]).ok();
            assert!(to.join("followed/sub/two").is_file(), "{tag}");
            copy(&["box:/data/v", &at("v")]).ok();
            assert_eq!(
                fs::read_to_string(to.join("v")).unwrap(),
                "v\n",
                "a volume's file, {tag}"
            );
            for (args, why) in [
                (vec!["box:/no/such".to_owned(), at("x")], "/no/such"),
                (vec!["box:/srv/src".to_owned(), at("file")], "director"),
                (
                    vec!["box:/srv/src/one".to_owned(), at("none/")],
                    "no such directory",
                ),
                (vec!["nobody:/etc".to_owned(), at("x")], "nobody"),
            ] {
                let args: Vec<&str> = args.iter().map(String::as_str).collect();
                let said = copy(&args);
                assert_ne!(said.code, 0, "{tag} {args:?}");
                assert!(said.stderr.contains(why), "{tag} {args:?}: {said:?}");
            }
            // In.
            copy(&[&at("new"), &format!("box:/srv/in-{tag}")]).ok();
            copy(&[&at("file"), &format!("box:/srv/in-{tag}/file")]).ok();
            copy(&[&at("file"), &format!("box:/srv/in-{tag}/")]).ok();
            copy(&[&at("v"), "box:/data/back"]).ok();
            let said = copy(&[&at("new"), &format!("box:/srv/in-{tag}/file")]);
            assert!(said.code != 0 && said.stderr.contains("director"), "{said:?}");
            let back = format!("box:/srv/in-{tag}");
            copy(&[&back, &at("back")]).ok();
            for path in ["back/sub/two", "back/src/sub/two", "back/file", "back/one"] {
                assert!(to.join(path).is_file(), "{tag} {path}");
            }
        }
    }
    let volume = host.state_dir().join("volumes/data/_data/back");
    assert_eq!(fs::read_to_string(volume).unwrap(), "v\n");
    host.wharf(["start", "box"]).ok();
    assert_eq!(sh(&host, "box", "cat /srv/in-true-false/sub/two"), "two\n");
}

#[test]
fn owners_modes_and_streams() {
    let host = Host::with_box("");
    let dir = scratch(&host, "owners");
    sh(
        &host,
        "box",
        "mkdir /srv/o; echo x >/srv/o/f; chown 1000:1001 /srv/o/f; chmod 6755 /srv/o/f; mknod /srv/o/null c 1 3",
    );
    let said = cp(&host, &["box:/srv/o", text(&dir.join("plain"))]).ok();
    assert!(
        said.stderr.contains("null") && said.stderr.contains("device"),
        "{said:?}"
    );
    cp(&host, &["-a", "box:/srv/o", text(&dir.join("kept"))]).ok();
    let meta = |path: &str| fs::metadata(dir.join(path)).unwrap();
    let (plain, kept) = (meta("plain/f"), meta("kept/f"));
    assert_eq!((plain.uid(), plain.gid(), plain.mode() & 0o7777), (0, 0, 0o755));
    assert_eq!(
        (kept.uid(), kept.gid(), kept.mode() & 0o7777),
        (1000, 1001, 0o6755)
    );
    assert_eq!(meta("kept/null").rdev(), rustix::fs::makedev(1, 3));
    assert!(!dir.join("plain/null").exists());
    cp(&host, &[text(&dir.join("kept/f")), "box:/srv/plain"]).ok();
    cp(&host, &["-a", text(&dir.join("kept/f")), "box:/srv/kept"]).ok();
    let seen = sh(&host, "box", "stat -c '%u %g %a' /srv/plain /srv/kept");
    assert_eq!(seen, "0 0 6755\n1000 1001 6755\n");
    // Streams, by both clients.
    pipe(&host, "\"$WHARF\" cp box:/srv/o - | \"$WHARF\" cp - box:/tmp").ok();
    assert_eq!(
        sh(&host, "box", "stat -c '%u %g %a' /tmp/o/f"),
        "1000 1001 6755\n"
    );
    let tar = host
        .docker_command()
        .args(["cp", "box:/srv/o", "-"])
        .output()
        .unwrap();
    assert!(tar.status.success());
    fs::write(dir.join("o.tar"), &tar.stdout).unwrap();
    let listed = Command::new("tar")
        .arg("-tvf")
        .arg(dir.join("o.tar"))
        .output()
        .unwrap();
    let listed = String::from_utf8(listed.stdout).unwrap();
    assert!(
        listed.contains("1000/1001") && listed.contains("-rwsr-sr-x"),
        "{listed}"
    );
    // Compressed, as the API takes it.
    let gz = format!("gzip -c {0} | \"$WHARF\" cp - box:/var", text(&dir.join("o.tar")));
    pipe(&host, &gz).ok();
    assert_eq!(sh(&host, "box", "cat /var/o/f"), "x\n");
    for (line, why) in [
        ("\"$WHARF\" cp - box:/srv/o/f </dev/null", "not a directory"),
        ("head -c 5000 /dev/urandom | \"$WHARF\" cp - box:/srv", "archive"),
    ] {
        let said = pipe(&host, line);
        assert!(said.code == 1 && said.stderr.contains(why), "{line}: {said:?}");
    }
    let both = cp(&host, &["box:/a", "box:/b"]);
    assert!(
        both.code == 1 && both.stderr.contains("between containers"),
        "{both:?}"
    );
    let proc = cp(&host, &["box:/proc/1/status", text(&dir)]);
    assert!(proc.code == 1 && proc.stderr.contains("kernel"), "{proc:?}");
}

#[test]
fn what_is_read_only_stays_so() {
    let mut host = Host::new();
    let more = "read_only = true\nvolumes = [\"data:/data\", \"locked:/locked:ro\"]";
    host.write_busybox("box", "exec sleep 1000", more);
    host.start_agent();
    host.converge();
    let file = host.dir().join("f");
    fs::write(&file, "x").unwrap();
    for stopped in [false, true] {
        if stopped {
            host.wharf(["stop", "box"]).ok();
        }
        for docker in [false, true] {
            let copy = |to: &str| match docker {
                true => docker_cp(&host, &[text(&file), to]),
                false => cp(&host, &[text(&file), to]),
            };
            for (to, why) in [
                ("box:/srv/f", "container rootfs is marked read-only"),
                ("box:/locked/f", "mounted volume is marked read-only"),
            ] {
                let said = copy(to);
                assert!(
                    said.code != 0 && said.stderr.contains(why),
                    "{stopped} {docker}: {said:?}"
                );
            }
            copy("box:/data/f").ok();
        }
    }
}

/// Directories turn into links that lead out, to canaries of the host, again and again while copies go both ways.
#[test]
fn a_container_that_swaps_links_leads_nobody_out() {
    let canary = tempfile::tempdir().unwrap();
    fs::create_dir(canary.path().join("sub")).unwrap();
    fs::write(canary.path().join("sub/secret"), "secret").unwrap();
    fs::set_permissions(canary.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let host = Host::with_box("");
    let out = canary.path().display();
    let swap = format!(
        "mkdir -p /srv/a/sub /srv/b; echo fine >/srv/a/sub/secret; ln -s {out} /srv/b/link; ln -s ../../../../../../../..{out} /srv/b/up; \
         while :; do mv /srv/a/sub /srv/s; ln -s {out}/sub /srv/a/sub; rm /srv/a/sub; \
         ln -s ../../../../../../../../..{out}/sub /srv/a/sub; rm /srv/a/sub; mv /srv/s /srv/a/sub; done"
    );
    host.wharf(["exec", "-d", "box", "sh", "-c", &swap]).ok();
    let to = scratch(&host, "out");
    let from = scratch(&host, "from/sub");
    fs::write(from.join("secret"), "new").unwrap();
    let more = from.join("more");
    fs::write(&more, "new").unwrap();
    let (start, mut rounds, mut copied) = (Instant::now(), 0, [0_u32, 0]);
    let enough = |rounds: u32, copied: &[u32]| match start.elapsed().as_secs() {
        0..4 => rounds >= 40,
        4..60 => rounds >= 6 && !copied.contains(&0),
        _ => true,
    };
    while !enough(rounds, &copied) {
        // What is in the way at that moment may well be an error.
        for path in [
            "box:/srv/a",
            "box:/srv/a/sub/secret",
            "box:/srv/a/sub/.",
            "box:/srv/b/link/.",
        ] {
            let said = cp(&host, &[path, text(&to.join(format!("{rounds}")))]);
            copied[0] += u32::from(said.code == 0);
        }
        for (file, path) in [
            (&from, "box:/srv/a"),
            (&more, "box:/srv/a/sub/"),
            (&more, "box:/srv/b/up/sub/"),
        ] {
            copied[1] += u32::from(cp(&host, &[text(file), path]).code == 0);
        }
        rounds += 1;
    }
    assert!(copied.iter().all(|n| *n > 0), "{copied:?} of {rounds} rounds");
    let mut left: Vec<String> = fs::read_dir(canary.path().join("sub"))
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    left.sort();
    assert_eq!(left, ["secret"], "after {rounds} rounds");
    assert_eq!(
        fs::read_to_string(canary.path().join("sub/secret")).unwrap(),
        "secret"
    );
    let found = Command::new("grep")
        .args(["-rl", "^secret"])
        .arg(&to)
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&found.stdout), "", "read from outside");
}

/// On the host: a link at the destination that was there before is not followed by what is unpacked.
#[test]
fn links_at_the_destination_are_not_written_through() {
    let host = Host::with_box("");
    sh(&host, "box", "mkdir -p /srv/d/l; echo new >/srv/d/l/f");
    let dir = scratch(&host, "dest");
    let outside = scratch(&host, "outside");
    fs::create_dir(dir.join("d")).unwrap();
    symlink(&outside, dir.join("d/l")).unwrap();
    let said = cp(&host, &["box:/srv/d", text(&dir)]);
    assert!(said.code == 1 && said.stderr.contains("l"), "{said:?}");
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
}

fn diff(host: &Host, name: &str) -> Vec<String> {
    host.wharf(["diff", name])
        .ok()
        .stdout
        .lines()
        .map(str::to_owned)
        .collect()
}

#[test]
fn changes_are_listed_as_docker_lists_them() {
    let more = "volumes = [\"data:/data\", \"/home/deep\"]\ntmpfs = [\"/run\"]\nworking_dir = \"/work\"";
    let host = Host::with_box(more);
    assert_eq!(
        diff(&host, "box"),
        [""; 0],
        "mount points and our own files are no changes"
    );
    sh(
        &host,
        "box",
        "echo x >/srv/new; mkdir -p /srv/dir/sub; echo y >/srv/dir/sub/f; rm /etc/group; echo more >>/etc/passwd; \
         chmod 700 /tmp; echo v >/data/v; rm /bin/yes; rm -r /var; mkdir /var; echo z >/var/z",
    );
    let wanted = [
        "C /bin",
        "D /bin/yes",
        "C /etc",
        "D /etc/group",
        "C /etc/passwd",
        "C /srv",
        "A /srv/dir",
        "A /srv/dir/sub",
        "A /srv/dir/sub/f",
        "A /srv/new",
        "C /tmp",
        "C /var",
        "A /var/z",
    ];
    assert_eq!(diff(&host, "box"), wanted);
    let docker = host.docker(["diff", "box"]).ok().stdout;
    assert_eq!(docker.lines().collect::<Vec<_>>(), wanted);
    let json: Value = serde_json::from_str(&host.wharf(["diff", "--json", "box"]).ok().stdout).unwrap();
    assert_eq!(json[1], serde_json::json!({ "kind": "D", "path": "/bin/yes" }));
    host.wharf(["stop", "box"]).ok();
    assert_eq!(diff(&host, "box"), wanted, "stopped");
    let nobody = host.wharf(["diff", "nobody"]);
    assert!(nobody.code == 1 && nobody.stderr.contains("nobody"), "{nobody:?}");
}

#[test]
fn a_root_goes_out_and_comes_in_again() {
    let mut host = Host::with_box("volumes = [\"data:/data\"]");
    sh(
        &host,
        "box",
        "echo x >/srv/x; ln /srv/x /srv/y; echo v >/data/v; rm /bin/yes",
    );
    let tar = host.dir().join("root.tar");
    host.wharf(["export", "-o", text(&tar), "box"]).ok();
    let listed = Command::new("tar").arg("-tf").arg(&tar).output().unwrap();
    let listed = String::from_utf8(listed.stdout).unwrap();
    let has = |name: &str| listed.lines().any(|line| line == name);
    assert!(
        has("srv/x") && has("data/") && has("proc/") && has("bin/busybox"),
        "{listed}"
    );
    assert!(
        !has("data/v") && !has("bin/yes") && !listed.contains("proc/1"),
        "{listed}"
    );
    let docker = host.docker_command().args(["export", "box"]).output().unwrap();
    assert_eq!(docker.stdout.len() as u64, fs::metadata(&tar).unwrap().len());
    let xz = format!(
        "xz -0 -c {} | \"$WHARF\" image import -m came -c 'CMD [\"sleep\", \"1000\"]' -c 'ENV PATH=/bin' - made:1",
        text(&tar)
    );
    let id = pipe(&host, &xz).ok().stdout;
    assert!(id.starts_with("sha256:"), "{id}");
    host.docker(["import", "--change", "CMD sleep 1000", text(&tar), "made:2"])
        .ok();
    for (name, image) in [("one", "made:1"), ("two", "made:2")] {
        let keys = "stop_signal = \"SIGKILL\"\nenv = { PATH = \"/bin\" }\npull = \"never\"";
        host.write(
            &format!("{name}.toml"),
            &format!("[container.{name}]\nimage = \"{image}\"\n{keys}\n"),
        );
        host.wait_for(name);
        assert_eq!(
            sh(
                &host,
                name,
                "cat /srv/y; stat -c %h /srv/y; ls /data; ls /bin/yes 2>&1 | wc -l"
            ),
            "x\n2\n1\n"
        );
    }
    let bad = pipe(
        &host,
        "head -c 3000 /dev/urandom | \"$WHARF\" image import - bad:1",
    );
    assert!(bad.code == 1 && bad.stderr.contains("archive"), "{bad:?}");
    let bad = host.wharf(["image", "import", "-c", "RUN make", text(&tar), "bad:1"]);
    assert!(bad.code == 1 && bad.stderr.contains("RUN make"), "{bad:?}");
    host.kill_agent();
    host.start_agent();
    assert_eq!(sh(&host, "one", "cat /srv/x"), "x\n");
}

#[test]
fn a_commit_holds_what_was_changed() {
    let more = "env = { FROM = \"table\" }\nlabels = { tier = \"front\" }\nvolumes = [\"data:/data\"]";
    let host = Host::with_box(more);
    sh(
        &host,
        "box",
        "mkdir -p /srv/d; echo one >/srv/d/one; ln /srv/d/one /srv/d/two; chown 1000:1001 /srv/d/one; chmod 4711 /srv/d/one; \
         ln -s one /srv/d/l; mkfifo /srv/d/p; rm /bin/yes; rm -r /home; mkdir /home; echo h >/home/h; echo v >/data/v; \
         mknod /srv/d/null c 1 3; truncate -s 3M /srv/d/hole; echo end >>/srv/d/hole",
    );
    let id = host
        .wharf([
            "commit",
            "-a",
            "me",
            "-m",
            "first",
            "-c",
            "LABEL made=here",
            "-c",
            "ENV A=\"b c\"",
            "box",
            "made",
        ])
        .ok()
        .stdout;
    host.wharf(["stop", "box"]).ok();
    host.docker(["commit", "--change", "USER 1000", "box", "made:2"])
        .ok();
    let keys = "stop_signal = \"SIGKILL\"\npull = \"never\"";
    for (name, image) in [("again", "made"), ("other", "made:2")] {
        host.write(
            &format!("{name}.toml"),
            &format!("[container.{name}]\nimage = \"{image}\"\n{keys}\n"),
        );
        host.wait_for(name);
    }
    assert_eq!(host.container("again").image_id.unwrap(), id.trim());
    let look = "cat /srv/d/two /home/h; stat -c '%h %u %g %a' /srv/d/one; readlink /srv/d/l; stat -c %F /srv/d/p /srv/d/null; \
                stat -c %s /srv/d/hole; tail -c4 /srv/d/hole; ls /bin/yes /data/v 2>/dev/null | wc -l; echo $FROM $A";
    let wanted = "one\nh\n2 1000 1001 4711\none\nfifo\ncharacter special file\n3145732\nend\n0\ntable";
    assert_eq!(sh(&host, "again", look), format!("{wanted} b c\n"));
    assert_eq!(sh(&host, "other", look), format!("{wanted}\n"));
    assert_eq!(sh(&host, "other", "id -u"), "1000\n");
    assert_eq!(diff(&host, "again"), [""; 0]);
    let inspected = host.docker(["image", "inspect", "made"]).ok().stdout;
    let image: Value = serde_json::from_str(&inspected).unwrap();
    let config = &image[0]["Config"];
    assert_eq!(
        config["Labels"],
        serde_json::json!({ "made": "here", "tier": "front" })
    );
    assert_eq!(config["Cmd"], serde_json::json!(["sh", "-c", "exec sleep 1000"]));
    assert_eq!(image[0]["Author"], "me");
    // Its layers are given out again as they were read.
    let saved = host.dir().join("made.tar");
    host.wharf(["image", "save", "-o", text(&saved), "made"]).ok();
    host.wharf(["image", "verify", "made"]).ok();
    host.docker(["load", "-i", text(&saved)]).ok();
    for (args, why) in [
        (vec!["commit", "nobody", "x"], "nobody"),
        (vec!["commit", "box", "UPPER"], "UPPER"),
        (vec!["commit", "-c", "FROM x", "box", "x"], "FROM x"),
    ] {
        let said = host.wharf(args);
        assert!(said.code == 1 && said.stderr.contains(why), "{said:?}");
    }
}

/// Frozen while it is read, and let go on when the agent is killed, or the client goes, in the middle of it.
#[test]
fn a_commit_that_is_cut_off_leaves_nothing_frozen() {
    let mut host = Host::with_box("");
    sh(
        &host,
        "box",
        "for i in $(seq 1 40); do dd if=/dev/urandom of=/srv/$i bs=1M count=2 2>/dev/null; done",
    );
    let count = "n=0; while :; do n=$((n+1)); echo $n >/tmp/n.new; mv /tmp/n.new /tmp/n; done";
    host.wharf(["exec", "-d", "box", "sh", "-c", count]).ok();
    let running = |host: &Host| {
        let first = cp_number(host);
        host.until("it counts on", |s| {
            s.containers[0].state == State::Running && cp_number(host) != first
        });
    };
    running(&host);
    for client in [false, true] {
        let mut commit = frozen_commit(&host);
        if client {
            commit.kill().unwrap();
        } else {
            host.kill_agent();
        }
        commit.wait().unwrap();
        if !client {
            host.start_agent();
            host.converge();
        }
        // A killed agent takes the detached counter along: its sessions end with it.
        if !client {
            host.wharf(["exec", "-d", "box", "sh", "-c", count]).ok();
        }
        running(&host);
    }
    host.wharf(["commit", "box", "made:1"]).ok();
    running(&host);
    let tmp = host.state_dir().join("store/tmp");
    assert_eq!(fs::read_dir(tmp).unwrap().count(), 0, "nothing is left half made");
}

/// A commit that is under way, its container frozen.
fn frozen_commit(host: &Host) -> Child {
    // It may be over before anybody looked.
    for _ in 0..20 {
        let mut command = host.wharf_command();
        command
            .args(["commit", "box", "made:1"])
            .stderr(Stdio::null())
            .stdout(Stdio::null());
        let mut commit = command.spawn().unwrap();
        while commit.try_wait().unwrap().is_none() {
            if host.container("box").state == State::Paused {
                return commit;
            }
        }
    }
    panic!("no commit was ever seen to freeze its container");
}

/// The number in a file that the container keeps writing.
fn cp_number(host: &Host) -> String {
    let said = pipe(host, "\"$WHARF\" cp box:/tmp/n - | tar -xO");
    said.stdout
}

/// Whether a child of the agent works on a container that must not be started meanwhile: it has its lock.
fn is_held(host: &Host) -> bool {
    let agent = host.agent_pid().unwrap();
    let tasks = fs::read_dir(format!("/proc/{agent}/task")).unwrap();
    let children = tasks.filter_map(|task| fs::read_to_string(task.ok()?.path().join("children")).ok());
    let children: Vec<String> = children.collect();
    children
        .iter()
        .flat_map(|line| line.split_whitespace())
        .any(|pid| {
            let lock = fs::read_link(format!("/proc/{pid}/fd/2"));
            lock.is_ok_and(|lock| lock.ends_with("start.lock"))
        })
}

#[test]
fn a_start_waits_for_a_copy_into_what_is_stopped() {
    let host = Host::with_box("");
    host.wharf(["stop", "box"]).ok();
    let dir = scratch(&host, "tree");
    fs::write(dir.join("file"), vec![b'x'; 300_000]).unwrap();
    let tar = Command::new("tar")
        .args(["-cf", "-", "file"])
        .current_dir(&dir)
        .output()
        .unwrap()
        .stdout;
    let mut command = host.wharf_command();
    let mut copy = command
        .args(["cp", "-", "box:/srv"])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = copy.stdin.take().unwrap();
    input.write_all(&tar[..200_000]).unwrap();
    let start = Instant::now();
    while !is_held(&host) {
        assert!(start.elapsed() < Duration::from_secs(30), "{}", host.evidence());
        std::thread::sleep(Duration::from_millis(5));
    }
    let logged = host.log().len();
    let mut command = host.wharf_command();
    let mut begun = command
        .args(["start", "box"])
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    host.until("it is being started", |_| {
        host.log()[logged..].contains("begin create")
    });
    assert_ne!(host.container("box").state, State::Running);
    input.write_all(&tar[200_000..]).unwrap();
    drop(input);
    assert!(copy.wait().unwrap().success());
    assert!(begun.wait().unwrap().success());
    assert_eq!(sh(&host, "box", "stat -c %s /srv/file"), "300000\n");
}
