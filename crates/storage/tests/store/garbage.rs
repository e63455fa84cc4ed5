//! Garbage collection: what goes, when, why, and what never does.

use std::time::Duration;

use jiff::Timestamp;
use model::image::ImageSource;
use storage::{Garbage, GcPolicy, InUse, Round, SPARED, Store, Why};

use super::common::{Fixture, Layout, Pack, entries};
use super::{keys, layer};

const WEEK: Duration = Duration::from_secs(7 * 24 * 3600);
const DAY: Duration = Duration::from_secs(24 * 3600);
const AGE: GcPolicy = GcPolicy {
    max_age: Some(WEEK),
    keep_free: 0,
};
const ROOM: GcPolicy = GcPolicy {
    max_age: None,
    keep_free: 10,
};

/// Images `a`, `b`, … of a layer of their own each, and one that all have.
fn with_images(fixture: &Fixture, names: &[&str]) -> Vec<ImageSource> {
    let one = |name: &&str| {
        let mut layout = Layout::new(&fixture.path(name));
        layout.image(None, &[(Pack::Gzip, layer("shared")), (Pack::Gzip, layer(name))]);
        let source = layout.source(None);
        fixture.load(&source).unwrap();
        source
    };
    names.iter().map(one).collect()
}

fn round(now: Timestamp) -> Round {
    Round {
        now,
        free: 50,
        thorough: false,
    }
}

fn full(now: Timestamp) -> Round {
    Round {
        free: 5,
        ..round(now)
    }
}

fn collect(store: &Store, in_use: &InUse, policy: &GcPolicy, round: Round) -> Vec<(String, Why)> {
    let garbage = store.collect(in_use, policy, &round).unwrap();
    let images = garbage.images.clone();
    store.discard(garbage).unwrap();
    images
}

fn wanted(sources: &[&ImageSource]) -> InUse {
    sources.iter().map(|source| source.key()).collect()
}

#[test]
fn an_image_goes_once_nothing_has_wanted_it_for_so_long() {
    let fixture = Fixture::new();
    let sources = with_images(&fixture, &["a", "b", "c"]);
    let (now, in_use) = (Timestamp::now(), wanted(&[&sources[2]]));
    let almost = now + WEEK - Duration::from_secs(5);
    for at in [now, now + DAY, almost] {
        assert_eq!(
            fixture.store.collect(&in_use, &AGE, &round(at)).unwrap(),
            Garbage::default()
        );
    }
    let later = now + WEEK + Duration::from_secs(5);
    let garbage = fixture.store.collect(&in_use, &AGE, &round(later)).unwrap();
    let gone: Vec<&str> = garbage.images.iter().map(|(key, _)| key.as_str()).collect();
    assert_eq!(gone, [sources[0].key(), sources[1].key()]);
    assert!(
        garbage
            .images
            .iter()
            .all(|(_, why)| matches!(why, Why::Unused(age) if *age >= WEEK))
    );
    // Out of the store at once, deleted when there is time: or when it is opened again.
    assert_eq!(keys(&fixture.store), [sources[2].key()]);
    assert_eq!(
        entries(&fixture.path("store/layers")).len(),
        2,
        "the shared one stays"
    );
    assert!(!entries(&fixture.path("store/tmp")).is_empty());
    assert!(fixture.store.discard(garbage).unwrap() > 0);
    assert!(entries(&fixture.path("store/tmp")).is_empty());
    // And comes again.
    fixture.load(&sources[0]).unwrap();
    assert_eq!(collect(&fixture.store, &in_use, &AGE, round(later)), []);
}

#[test]
fn who_is_wanted_in_between_begins_anew() {
    let fixture = Fixture::new();
    let sources = with_images(&fixture, &["a", "b"]);
    let (now, nobody) = (Timestamp::now(), InUse::default());
    collect(&fixture.store, &nobody, &AGE, round(now));
    // `a` runs for a while; somebody pulls `b` again.
    collect(
        &fixture.store,
        &wanted(&[&sources[0]]),
        &AGE,
        round(now + 5 * DAY),
    );
    fixture.load(&sources[1]).unwrap();
    collect(&fixture.store, &nobody, &AGE, round(now + 6 * DAY));
    assert_eq!(collect(&fixture.store, &nobody, &AGE, round(now + 8 * DAY)), []);
    // That is remembered by the next agent.
    let again = Store::open(&fixture.path("store")).unwrap();
    assert_eq!(collect(&again, &nobody, &AGE, round(now + 12 * DAY)), []);
    assert_eq!(collect(&again, &nobody, &AGE, round(now + 13 * DAY)).len(), 2);
}

#[test]
fn a_note_that_is_lost_and_a_clock_that_is_set_back_make_nothing_old() {
    let fixture = Fixture::new();
    with_images(&fixture, &["a"]);
    let (now, nobody) = (Timestamp::now(), InUse::default());
    collect(&fixture.store, &nobody, &AGE, round(now));
    std::fs::write(fixture.path("store/unused.json"), "{").unwrap();
    let again = Store::open(&fixture.path("store")).unwrap();
    assert_eq!(collect(&again, &nobody, &AGE, round(now + 8 * DAY)), []);
    assert_eq!(collect(&again, &nobody, &AGE, round(now)), []);
    assert_eq!(collect(&again, &nobody, &AGE, round(now + 6 * DAY)), []);
    assert_eq!(collect(&again, &nobody, &AGE, round(now + 7 * DAY)).len(), 1);
}

#[test]
fn a_full_disk_takes_one_at_a_time_the_one_unused_longest_first() {
    let fixture = Fixture::new();
    let sources = with_images(&fixture, &["a", "b", "c"]);
    let now = Timestamp::now();
    // c has been unused longest, then a; b is new.
    collect(
        &fixture.store,
        &wanted(&[&sources[0], &sources[1]]),
        &ROOM,
        full(now),
    );
    collect(
        &fixture.store,
        &wanted(&[&sources[1]]),
        &ROOM,
        full(now + Duration::from_secs(60)),
    );
    let soon = now + Duration::from_secs(120);
    let nobody = InUse::default();
    assert_eq!(
        collect(&fixture.store, &nobody, &ROOM, full(soon)),
        [],
        "all are spared yet"
    );
    let later = soon + SPARED - Duration::from_secs(10);
    assert_eq!(
        collect(&fixture.store, &nobody, &ROOM, round(later)),
        [],
        "there is room"
    );
    let mut gone = Vec::new();
    for _ in 0..3 {
        gone.extend(collect(&fixture.store, &nobody, &ROOM, full(later)));
    }
    let full = Why::Full(5);
    assert_eq!(
        gone,
        [(sources[2].key(), full), (sources[0].key(), full)],
        "b was wanted a moment ago"
    );
    assert_eq!(keys(&fixture.store), [sources[1].key()]);
}

#[test]
fn layers_of_no_image_go_with_time_and_those_that_containers_stand_on_do_not() {
    let fixture = Fixture::new();
    let mut layout = Layout::new(&fixture.path("moving"));
    layout.image(None, &[(Pack::Gzip, layer("old"))]);
    let old = fixture.load(&layout.source(None)).unwrap();
    layout.manifests.clear();
    layout.image(None, &[(Pack::Gzip, layer("new"))]);
    fixture.load(&layout.source(None)).unwrap();
    let thorough = |now| Round {
        thorough: true,
        ..round(now)
    };
    let (now, mut in_use) = (Timestamp::now(), wanted(&[&layout.source(None)]));
    let later = now + WEEK + DAY;
    in_use.layers.extend(old.layers.iter().cloned());
    for (in_use, round, gone) in [
        (&in_use, thorough(later), None),
        (&wanted(&[&layout.source(None)]), thorough(now), None),
        (&wanted(&[&layout.source(None)]), round(later), None),
        (&wanted(&[&layout.source(None)]), thorough(later), Some(1)),
    ] {
        let garbage = fixture.store.collect(in_use, &AGE, &round).unwrap();
        assert_eq!(garbage.layers.map(|(count, _)| count), gone);
        fixture.store.discard(garbage).unwrap();
    }
    assert_eq!(entries(&fixture.path("store/layers")).len(), 1);
    assert_eq!(keys(&fixture.store), [layout.source(None).key()]);
}
