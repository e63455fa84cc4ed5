//! `wharf volume export|import|clone`, with containers at work on what is copied.

use std::fs;
use std::io::Read;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::process::{Command, Stdio};

use model::status::State;
use tests::Host;

/// Counts into `a`, then into `z`: what is of one moment differs by one at most.
const COUNT: &str = "n=0; while :; do n=$((n+1)); echo $n > /data/a; echo $n > /data/z; done";

fn counting(more: &str) -> Host {
    let mut host = Host::new();
    host.write_busybox("box", COUNT, &format!("volumes = [\"data:/data\"]\n{more}"));
    host.start_agent();
    host.converge();
    // Between `a` and `z` in the archive, and large enough for the two to drift apart.
    host.wharf([
        "exec",
        "box",
        "sh",
        "-c",
        "dd if=/dev/zero of=/data/m bs=1M count=20 2>/dev/null",
    ])
    .ok();
    host
}

fn number(host: &Host, file: &str) -> i64 {
    // A file just being written anew is empty.
    loop {
        let said = host
            .wharf(["exec", "box", "cat", &format!("/data/{file}")])
            .ok()
            .stdout;
        if let Ok(number) = said.trim().parse() {
            return number;
        }
    }
}

fn unpacked(archive: &std::path::Path, file: &str) -> i64 {
    let out = Command::new("tar")
        .arg("-xOf")
        .arg(archive)
        .arg(file)
        .output()
        .unwrap();
    let text = String::from_utf8(out.stdout).unwrap();
    // Frozen between emptying a file and writing it.
    text.trim().parse().unwrap_or(-1)
}

/// It counts on: nothing keeps it from running.
fn goes_on(host: &Host) {
    host.until("it runs", |s| s.containers[0].state == State::Running);
    let before = number(host, "z");
    while number(host, "z") <= before {}
}

#[test]
fn an_archive_of_a_paused_container_is_of_one_moment() {
    let host = counting("");
    let archive = host.dir().join("data.tar");
    let archive = archive.to_str().unwrap();
    host.wharf(["volume", "export", "data", "--pause", "-o", archive])
        .ok();
    let (a, z) = (
        unpacked(archive.as_ref(), "./a"),
        unpacked(archive.as_ref(), "./z"),
    );
    assert!(a < 0 || z < 0 || (a - z).abs() <= 1, "{a} and {z}");
    // At once: the copy is only over when the container goes on.
    number(&host, "z");
    goes_on(&host);

    // Who is paused by hand is not let go on by the end of a copy.
    host.wharf(["pause", "box"]).ok();
    host.wharf(["volume", "export", "data", "--pause", "-o", archive])
        .ok();
    let said = host.wharf(["exec", "box", "true"]);
    assert!(said.code == 125 && said.stderr.contains("is paused"), "{said:?}");
    host.wharf(["unpause", "box"]).ok();
    goes_on(&host);

    // Into a new one, by a pipe, and from there into one that is there.
    let wharf = tests::images::wharf_bin();
    let pipe = |line: &str| {
        let out = host
            .ns
            .command("bash")
            .args(["-ec", line])
            .env("WHARF_RUN_DIR", host.run_dir())
            .env("W", &wharf)
            .output()
            .unwrap();
        assert!(out.status.success(), "{line}: {out:?}");
        String::from_utf8(out.stdout).unwrap()
    };
    assert_eq!(
        pipe(&format!("gzip -c {archive} | $W volume import copy")),
        "copy\n"
    );
    assert_eq!(
        pipe("$W volume export copy | $W volume import again -i - && $W volume clone again third --pause"),
        "again\nthird\n"
    );
    let read = |volume: &str| {
        fs::read_to_string(host.state_dir().join(format!("volumes/{volume}/_data/a"))).unwrap()
    };
    assert_eq!((read("copy"), read("again")), (read("third"), read("third")));
    let listed = host.wharf(["volume", "ls"]).ok().stdout;
    for name in ["data", "copy", "again", "third"] {
        assert!(listed.contains(name), "{listed}");
    }
    for (args, says) in [
        (["volume", "export", "none"].as_slice(), "there is no volume none"),
        (
            &["volume", "clone", "copy", "again"],
            "there is a volume again already",
        ),
        (
            &["volume", "import", "Bad Name", "-i", archive],
            "cannot be a volume's name",
        ),
        (&["volume", "import", "new", "-i", "/etc/hostname"], "archive"),
    ] {
        let said = host.wharf(args);
        assert_eq!(said.code, 1, "{said:?}");
        assert!(said.stderr.contains(says), "{said:?}");
    }
    assert!(!host.state_dir().join("volumes/new").exists());
}

#[test]
fn a_large_file_with_little_in_it_is_a_small_copy() {
    let host = Host::with_box("volumes = [\"data:/data\"]\n");
    let line =
        "truncate -s 10G /data/disk; echo end | dd of=/data/disk bs=1 seek=5G conv=notrunc 2>/dev/null";
    host.wharf(["exec", "box", "sh", "-ec", line]).ok();
    let archive = host.dir().join("data.tar");
    let archive = archive.to_str().unwrap();
    host.wharf(["volume", "export", "--sparse", "data", "-o", archive])
        .ok();
    assert!(fs::metadata(archive).unwrap().len() < 1 << 20);
    host.wharf(["volume", "import", "back", "-i", archive]).ok();
    host.wharf(["volume", "clone", "data", "copy"]).ok();
    let unpacked = host.dir().join("unpacked");
    fs::create_dir(&unpacked).unwrap();
    host.ns
        .sh(&format!("tar -xf {archive} -C {}", unpacked.display()));
    let volumes = host.state_dir().join("volumes");
    for copy in [unpacked, volumes.join("back/_data"), volumes.join("copy/_data")] {
        let disk = fs::File::open(copy.join("disk")).unwrap();
        let meta = disk.metadata().unwrap();
        assert_eq!(meta.len(), 10 << 30, "{}", copy.display());
        assert!(
            meta.blocks() * 512 < 1 << 20,
            "{}: {}",
            copy.display(),
            meta.blocks()
        );
        let mut end = [0; 5];
        disk.read_exact_at(&mut end, 5 << 30).unwrap();
        assert_eq!(&end, b"end\n\0", "{}", copy.display());
    }
}

#[test]
fn who_was_frozen_goes_on_when_client_or_agent_die() {
    let mut host = counting("");
    let frozen = |host: &Host| {
        let mut command = host.wharf_command();
        command.args(["volume", "export", "data", "--pause"]);
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        // It has begun, and nobody takes any more of it.
        child.stdout.as_mut().unwrap().read_exact(&mut [0; 512]).unwrap();
        host.until("it is frozen", |s| s.containers[0].state == State::Paused);
        child
    };
    let mut client = frozen(&host);
    client.kill().unwrap();
    client.wait().unwrap();
    goes_on(&host);
    let mut client = frozen(&host);
    host.kill_agent();
    host.start_agent();
    goes_on(&host);
    drop(client.kill());
    client.wait().unwrap();
}
