//! What the keys of a table come to inside a container: with the real shim, the real runtime, the real kernel.

#![allow(clippy::unwrap_used)] // helpers of tests

mod init;
mod keys;
mod limits;
mod sharing;
#[path = "../shimhost/mod.rs"]
mod shimhost;
#[path = "../support/mod.rs"]
mod support;

use std::fs::File;
use std::io::Read;

use model::action::Instance;
use model::image::ImageSource;
use runtime::client::{ExecIo, ExecSpec};
use shimhost::{Host, instance};

/// A container with busybox's image that runs this script.
fn container(host: &Host, name: &str, script: &str) -> Instance {
    let root = host.dir.path().join("rootfs");
    if !root.exists() {
        support::busybox_image(&root);
    }
    let mut i = instance(name, &["/bin/sh", "-c", script]);
    i.image.layers = vec![root.clone()];
    i.spec.image = ImageSource::Rootfs { dir: root };
    i
}

/// What it has written, without the streams' names.
fn said(host: &Host, i: &Instance) -> String {
    host.log(i).into_iter().map(|(_, line)| line).collect()
}

/// What a further process in it writes.
fn beside(host: &Host, i: &Instance, script: &str) -> String {
    let spec = ExecSpec {
        args: ["/bin/sh", "-c", script].map(String::from).into(),
        ..ExecSpec::default()
    };
    let session = host.runtime.exec(&i.id, &spec, None).unwrap();
    let ExecIo::Pipes { stdout, .. } = &session.io else {
        panic!("{:?}", session.io);
    };
    let mut out = File::from(stdout.try_clone().unwrap());
    let mut text = String::new();
    out.read_to_string(&mut text).unwrap();
    let end = session.wait().unwrap();
    assert_eq!((end.code, end.error), (0, None), "{text}");
    text
}

/// Waits until it has written this.
fn until_said(host: &Host, i: &Instance, text: &str) -> String {
    host.until(i, text, |_| said(host, i).contains(text));
    said(host, i)
}
