//! `volumes_from`: chains, read-only, data-only containers, and who outlives whom.

use model::status::State;
use serde_json::json;
use tests::images::{LayerBuilder, busybox};
use tests::{Host, images};

fn sh(host: &Host, container: &str, line: &str) -> tests::client::Said {
    host.wharf(["exec", container, "sh", "-c", line])
}

fn app(host: &Host, name: &str, more: &str) {
    host.write_busybox(name, "exec sleep 1000", more);
}

/// `data`, which only holds what its image brings at `/anon`, and ends.
fn data(host: &Host, more: &str) -> String {
    let layer = LayerBuilder::new()
        .dir("anon", 0o750)
        .file("anon/file", 0o640, b"from the image");
    let image = host.oci_dir("data", &busybox().layer(layer));
    format!("[container.data]\nimage = {image:?}\ncommand = [\"true\"]\nrestart = \"no\"\n{more}\n")
}

#[test]
fn others_mount_what_a_container_that_has_ended_had() {
    let mut host = Host::new();
    app(&host, "app", "volumes_from = [\"data\"]\n");
    app(&host, "reads", "volumes_from = [\"data:ro\"]\n");
    app(
        &host,
        "chain",
        "volumes_from = [\"reads\"]\nvolumes = [\"/named\"]\n",
    );
    host.write(
        "data.toml",
        &data(&host, "volumes = [\"/anon\", \"named:/named\"]"),
    );
    host.start_agent();
    let status = host.converge();
    assert_eq!(host.container("data").state, State::Exited);
    assert_eq!(status.volumes.len(), 2, "{:?}", status.volumes);
    // What the lender's image has is there, whoever asks first.
    for container in ["app", "reads", "chain"] {
        let said = sh(&host, container, "cat /anon/file; stat -c %a /anon")
            .ok()
            .stdout;
        assert_eq!(said, "from the image750\n", "{container}");
    }
    sh(&host, "app", "echo shared > /anon/x; echo named > /named/x").ok();
    assert_eq!(
        sh(&host, "reads", "cat /anon/x /named/x").ok().stdout,
        "shared\nnamed\n"
    );
    for container in ["reads", "chain"] {
        assert_ne!(sh(&host, container, "echo no > /anon/x").code, 0, "{container}");
    }
    assert_eq!(sh(&host, "chain", "ls /named").ok().stdout, "", "its own there");

    // The lender may be replaced, held, or fail: the volumes stay, and who mounts them goes on.
    let before = host.container("app");
    let lender = host.container("data");
    host.write(
        "data.toml",
        &data(
            &host,
            "volumes = [\"/anon\", \"named:/named\"]\nenv = { A = \"1\" }",
        ),
    );
    host.until("the lender is another one", |s| {
        s.converged && s.containers.iter().any(|c| c.name == "data" && c.id != lender.id)
    });
    assert_eq!(sh(&host, "app", "cat /anon/x").ok().stdout, "shared\n");
    assert_eq!(host.container("app").id, before.id);
    // A change of what it mounts is one here.
    host.write(
        "data.toml",
        &data(&host, "volumes = [\"/anon\", \"named:/other\"]"),
    );
    host.until("who mounts them is replaced", |s| {
        s.converged && s.containers.iter().any(|c| c.name == "app" && c.id != before.id)
    });
    assert_eq!(
        sh(&host, "app", "cat /anon/x /other/x").ok().stdout,
        "shared\nnamed\n"
    );
    // A file that cannot be read takes nobody's volume away.
    let lender = host.container("data");
    for name in ["app", "reads", "chain"] {
        host.write(&format!("{name}.toml"), "this is no table");
    }
    host.until("all three are held", |s| s.errors.len() == 3);
    host.wharf(["reload"]);
    assert_eq!(host.container("data").id, lender.id);
    assert_eq!(sh(&host, "app", "cat /anon/x").ok().stdout, "shared\n");
    host.remove_all();
    let gone = host.until("gone", |s| {
        s.containers.is_empty() && s.converged && s.volumes.len() == 1
    });
    assert_eq!(
        (gone.volumes[0].name.as_str(), gone.volumes[0].kept),
        ("named", true)
    );
}

#[test]
fn a_volume_of_the_image_alone_is_lent_once_it_is_named() {
    let mut host = Host::new();
    let image = host.oci_dir(
        "declares",
        &images::busybox().set("Volumes", json!({ "/hidden": {} })),
    );
    let table = |more: &str| {
        format!(
            "[container.data]\nimage = {image:?}\ncommand = [\"sleep\", \"1000\"]\nstop_signal = \"SIGKILL\"\n{more}\n"
        )
    };
    host.write("data.toml", &table(""));
    app(&host, "app", "volumes_from = [\"data\"]\n");
    host.start_agent();
    let seen = host.until("the reason is told", |s| {
        s.containers
            .iter()
            .any(|c| c.name == "app" && c.error.as_ref().is_some_and(|e| e.contains("/hidden")))
    });
    let error = seen
        .containers
        .iter()
        .find(|c| c.name == "app")
        .unwrap()
        .error
        .clone()
        .unwrap();
    assert!(
        error.contains("the image of container data") && error.contains("`volumes`"),
        "{error}"
    );
    host.write("data.toml", &table("volumes = [\"/hidden\"]"));
    host.converge();
    sh(&host, "app", "echo x > /hidden/x").ok();
    assert_eq!(sh(&host, "data", "cat /hidden/x").ok().stdout, "x\n");
}
