//! What is in a volume is there after everything but its removal.

use std::fs;

use tests::Host;

fn table(host: &Host, more: &str) -> String {
    let network = "\n[network.front]\nsubnet = \"10.80.0.0/24\"\n";
    host.busybox_table(
        "box",
        "exec sleep 1000",
        &format!("volumes = [\"data:/data\"]\n{more}"),
    ) + network
}

fn assert_kept(host: &Host, after: &str) {
    let said = host.wharf(["exec", "box", "cat", "/data/file"]).ok().stdout;
    assert_eq!(said, "kept\n", "after {after}");
}

#[test]
fn slow_data_outlives_everything_but_its_removal() {
    let mut host = Host::new();
    host.expect_error("the ledger");
    let front = "networks = [\"front\"]\n";
    host.write("box.toml", &table(&host, front));
    host.start_agent();
    host.converge();
    host.wharf(["exec", "box", "sh", "-c", "echo kept > /data/file"])
        .ok();
    let mut last = host.container("box").id;
    let mut replaced = |host: &Host, after: &str| {
        let before = last.clone();
        let status = host.until(after, |s| {
            s.converged && s.containers.len() == 1 && s.containers[0].id != before
        });
        last = status.containers[0].id.clone();
        assert_kept(host, after);
    };

    host.write(
        "box.toml",
        &table(&host, "networks = [\"front\"]\nenv = { A = \"1\" }\n"),
    );
    replaced(&host, "a replacement");
    fs::rename(
        host.config_dir().join("box.toml"),
        host.config_dir().join("other.toml"),
    )
    .unwrap();
    host.converge();
    assert_kept(&host, "its file has another name");
    // Another subnet makes the network anew, and what hangs on it begins there.
    let elsewhere = table(&host, front).replace("10.80.0.0", "10.81.0.0");
    host.write("other.toml", &elsewhere);
    host.until("moved", |s| {
        s.converged
            && s.containers[0].networks["front"]
                .ip
                .as_deref()
                .is_some_and(|ip| ip.starts_with("10.81."))
    });
    assert_kept(&host, "its network was made anew");
    // An update that cannot be: the old one is taken back.
    host.write(
        "other.toml",
        &elsewhere.replace("\"sh\", \"-c\"", "\"/not/there\", \"-c\""),
    );
    host.until("taken back", |s| {
        s.containers[0].rolled_back.is_some() || s.containers[0].error.is_some()
    });
    assert_kept(&host, "an update was taken back");
    host.write("other.toml", &elsewhere);
    host.converge();
    host.kill_agent();
    host.start_agent();
    host.converge();
    assert_kept(&host, "the agent was killed");
    // Without anything of its ledger, container and volume are found as they are.
    assert!(host.stop_agent().success());
    for copy in ["state/ledger.json", "state/ledger.copy.json", "run/ledger.json"] {
        drop(fs::remove_file(host.dir().join(copy)));
    }
    host.start_agent();
    host.converge();
    assert_kept(&host, "the ledger was lost");
    host.reboot();
    host.start_agent();
    host.converge();
    assert_kept(&host, "a reboot");
    host.wharf(["prune", "--force"]).ok();
    host.wharf(["prune", "--trash", "--force"]).ok();
    host.wharf(["volume", "prune", "--force"]).ok();
    assert_kept(&host, "everything was pruned that nothing uses");
    host.remove_all();
    host.until("gone", |s| s.containers.is_empty() && s.converged);
    host.wharf(["prune", "--force"]).ok();
    host.write("box.toml", &table(&host, front));
    host.converge();
    assert_kept(&host, "it was gone for a while");
}
