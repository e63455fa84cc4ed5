//! What is killed at any instruction leaves a store and volumes that open, are clean, whole, and can do it again.
#![allow(clippy::unwrap_used)]

mod common;
#[path = "killed/operations.rs"]
mod operations;

use common::{Fixture, Layout, Member, Pack, Tar, in_memory, killed};
use model::image::ImageSource;
use storage::LoadOptions;

#[test]
fn child_that_loads() {
    let Some((store, dir)) = killed::given() else {
        return;
    };
    let source = ImageSource::Oci {
        dir: dir.into(),
        reference: None,
    };
    store.load(&source, &LoadOptions::new(&false.into())).unwrap();
}

#[test]
fn thirty_kills_at_random_moments() {
    let fixture = Fixture::within(in_memory());
    let mut layout = Layout::new(&fixture.path("layout"));
    let layers: Vec<_> = (0..5)
        .map(|n| {
            let files = (0..150).map(|i| Member::file(format!("d{}/{n}-{i}", i / 20), vec![i as u8; 5000]));
            (if n % 2 == 0 { Pack::Gzip } else { Pack::Zstd }, Tar::of(files))
        })
        .collect();
    layout.image(None, &layers);
    let source = layout.source(None);
    let interrupted = killed::kill(
        &fixture,
        30,
        "child_that_loads",
        layout.dir.to_str().unwrap(),
        &source,
    );
    assert!(interrupted > 0, "no kill hit a load at work");
}
