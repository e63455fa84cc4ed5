//! Volumes on servers that cannot be had; what holds of one that can is in `./test --vm`.

use model::status::State;
use tests::Host;

/// Nobody listens at this port; and where the kernel knows of no NFS at all, that is said first.
const FAR: &str = "\n[volume.far]\ndriver = \"nfs\"\ndevice = \"127.0.0.1:/srv\"\noptions = \"port=1,soft,timeo=10,retrans=1\"\n";

#[test]
fn a_server_that_cannot_be_had_holds_up_only_who_needs_it() {
    let mut host = Host::new();
    let sleeping = |name: &str, more: &str| host.busybox_table(name, "exec sleep 1000", more);
    let needs = sleeping("needs", "volumes = [\"far:/data\"]\n");
    let other = sleeping("other", "volumes = [\"near:/data\"]\n");
    host.write("needs.toml", &(needs.clone() + FAR));
    host.write("other.toml", &other);
    host.start_agent();
    let status = host.until("the error is told, and the other one runs", |s| {
        let told = s.volumes.iter().any(|v| v.name == "far" && v.error.is_some());
        told && s.containers[0].error.is_some() && s.containers[1].state == State::Running
    });
    let [far, near] = &status.volumes[..] else {
        panic!("{:?}", status.volumes);
    };
    let error = far.error.as_deref().unwrap();
    let no_client = "this kernel has no NFS client: nfs4 is not in /proc/filesystems";
    assert!(
        error.contains(no_client) || error.contains("127.0.0.1:/srv cannot be mounted from 127.0.0.1"),
        "{error}"
    );
    assert_eq!((far.driver.as_str(), near.error.as_deref()), ("nfs", None));
    let waits = status.containers[0].error.as_deref().unwrap();
    assert!(waits.starts_with("waits for volume far, which "), "{waits}");
    assert!(status.containers[0].pid.is_none() && !status.converged);
    let plan = host.wharf(["plan"]);
    assert!(plan.stdout.contains("volume far"), "{plan:?}");
    let shown = host.wharf(["volume", "ls"]).ok().stdout;
    assert!(shown.contains("far") && shown.contains("nfs"), "{shown}");

    // Nothing of it is there yet, so it may become anything.
    host.write("needs.toml", &(needs + "\n[volume.far]\ndriver = \"tmpfs\"\n"));
    host.converge();
    assert_eq!(host.container("needs").state, State::Running);
    let said = host
        .wharf(["exec", "needs", "sh", "-c", "echo x >/data/x && cat /data/x"])
        .ok();
    assert_eq!(said.stdout, "x\n");
}

#[test]
fn what_no_server_has_is_refused_with_its_place() {
    let host = Host::new();
    host.write("far.toml", &FAR.replace("port=1", "vers=3"));
    let said = host.wharf(["validate", &host.config_dir().display().to_string()]);
    assert_eq!(said.code, 1, "{said:?}");
    let text = said.stdout + &said.stderr;
    for part in [
        "far.toml:5:11",
        "\"vers=3\", which is an older NFS",
        "driver = \"bind\"",
    ] {
        assert!(text.contains(part), "{part:?} is not in {text}");
    }
}
