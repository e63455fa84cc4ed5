//! Random layers in random spellings unpack to what a model in memory says, or both refuse them.
#![allow(clippy::unwrap_used)]

mod common;

use common::reference::Reference;
use common::snapshot::{CHARACTER, DIRECTORY};
use common::tarball::{Spelling, seal};
use common::{Fixture, Layout, Member, Pack, Tar, snapshot};
use proptest::prelude::*;
use proptest::test_runner::{RngAlgorithm, TestRng, TestRunner};

const CASES: u32 = 300;

/// Few names, so that entries meet; some too long for a header's field.
fn name() -> impl Strategy<Value = String> {
    prop_oneof![
        8 => prop::sample::select(vec!["a", "b", "c"]).prop_map(str::to_owned),
        1 => prop::sample::select(vec!["d", "e"]).prop_map(|c| c.repeat(120)),
    ]
}

fn path(most: usize) -> impl Strategy<Value = Vec<String>> {
    prop::collection::vec(name(), 1..=most)
}

/// One path, said in one of the ways that mean the same.
fn said(parts: &[String], how: u8, directory: bool) -> String {
    let joined = parts.join(if how.is_multiple_of(5) { "//" } else { "/" });
    let start = ["", "./", "/", "/./", "././"][usize::from(how) % 5];
    let end = if directory && how.is_multiple_of(2) {
        "/"
    } else {
        ""
    };
    format!("{start}{joined}{end}")
}

fn target() -> impl Strategy<Value = String> {
    let part = prop_oneof![4 => name(), 2 => Just("..".to_owned()), 1 => Just(".".to_owned())];
    (prop::collection::vec(part, 1..=3), any::<bool>())
        .prop_map(|(parts, absolute)| format!("{}{}", if absolute { "/" } else { "" }, parts.join("/")))
}

fn member() -> impl Strategy<Value = Member> {
    let what = prop_oneof![
        4 => prop::collection::vec(any::<u8>(), 0..1500).prop_map(|content| Member::file("", content)),
        4 => Just(Member::dir("")),
        3 => target().prop_map(|target| Member::symlink("", target)),
        2 => (path(3), any::<u8>()).prop_map(|(path, how)| Member::hardlink("", said(&path, how, false))),
        1 => Just(Member::fifo("")),
        1 => (1..300_u32, 0..70_000_u32).prop_map(|(major, minor)| Member::character("", major, minor)),
        2 => Just(Member::new(b'w', "")),
        1 => Just(Member::new(b'o', "")),
    ];
    let numbers = (
        0..=0o7777_u32,
        0..u64::from(u32::MAX),
        0..u64::from(u32::MAX),
        0..0x3_7fff_ffff_u64,
    );
    let spelling = prop::sample::select(vec![
        Spelling::Pax,
        Spelling::PaxOnly,
        Spelling::Gnu,
        Spelling::Ustar,
    ]);
    let attribute = prop::option::weighted(0.2, prop::collection::vec(any::<u8>(), 0..40));
    let place = prop_oneof![3 => path(2), 1 => path(4)];
    (what, place, any::<u8>(), numbers, spelling, attribute).prop_map(
        |(mut member, mut path, how, (mode, uid, gid, mtime), spelling, attribute)| {
            match member.flag {
                b'w' => {
                    member.flag = b'0';
                    let last = path.pop().unwrap();
                    path.push(format!(".wh.{last}"));
                }
                b'o' => {
                    member.flag = b'0';
                    path.push(".wh..wh..opq".to_owned());
                }
                _ => {}
            }
            member.path = said(&path, how, member.flag == b'5').into_bytes();
            let member = Member {
                mode,
                uid,
                gid,
                mtime,
                spelling,
                ..member
            };
            // GNU's form has no attributes, and links and devices take none of users.
            let possible = spelling != Spelling::Gnu && matches!(member.flag, b'0' | b'5');
            match attribute.filter(|_| possible) {
                Some(value) => member.xattr("user.note", value),
                None => member,
            }
        },
    )
}

fn check(members: &[Member], pack: Pack) -> Result<(), TestCaseError> {
    let fixture = Fixture::new();
    let mut layout = Layout::new(&fixture.path("layout"));
    let plain = Tar::of(members.to_vec());
    layout.image(None, &[(pack, plain.clone())]);
    let mut reference = Reference::new();
    let expected = members.iter().try_for_each(|member| reference.apply(member));
    let loaded = fixture.load(&layout.source(None));
    let image = match (loaded, expected) {
        (Ok(image), Ok(())) => image,
        (Err(_), Err(_)) => {
            fixture.assert_empty();
            return Ok(());
        }
        (loaded, expected) => {
            return Err(TestCaseError::fail(format!(
                "unpacked: {loaded:?}, the model: {expected:?}"
            )));
        }
    };
    let (mut got, mut expected) = (snapshot(&image.layers[0]), reference.picture());
    for picture in [&mut got, &mut expected] {
        for node in picture.values_mut() {
            // A whiteout has no time of its own.
            let whiteout = node.kind() == CHARACTER && node.device == 0;
            if whiteout || (reference.replaced_link && node.kind() == DIRECTORY) {
                node.mtime = (0, 0);
            }
        }
    }
    prop_assert_eq!(got, expected);
    fixture.assert_gives_out(&plain);
    Ok(())
}

/// A runner with a seed of its own, which is printed.
fn runner() -> TestRunner {
    let clock = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap();
    let seed: u64 = std::env::var("SEED").map_or(clock.as_nanos() as u64, |seed| seed.parse().unwrap());
    println!("seed {seed} (SEED=… sets another)");
    let config = ProptestConfig {
        cases: CASES,
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    let bytes = seed.to_le_bytes().repeat(4);
    TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &bytes))
}

#[test]
fn random_layers_unpack_as_the_model_says() {
    let pack = prop::sample::select(vec![Pack::Plain, Pack::Gzip, Pack::GzipTwice, Pack::Zstd]);
    let layers = (prop::collection::vec(member(), 0..25), pack);
    runner()
        .run(&layers, |(members, pack)| check(&members, pack))
        .unwrap();
}

/// Damage that checksums do not show: every header is sealed anew. Whatever comes out, nothing is left of what failed.
#[test]
fn damaged_archives_end_in_an_error_or_a_layer() {
    let damage = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..20);
    let layers = (prop::collection::vec(member(), 1..10), damage);
    let refused = std::cell::Cell::new(0);
    runner()
        .run(&layers, |(members, damage)| {
            let mut tar = Tar::of(members);
            for (at, byte) in damage {
                let at = at.index(tar.len());
                tar[at] = byte;
            }
            for block in tar.chunks_exact_mut(512) {
                if block[257..262] == *b"ustar" {
                    seal(block.try_into().unwrap());
                }
            }
            let fixture = Fixture::new();
            if fixture.unpack(tar).is_err() {
                fixture.assert_empty();
                refused.set(refused.get() + 1);
            }
            Ok(())
        })
        .unwrap();
    println!("{} of {CASES} were refused", refused.get());
}
