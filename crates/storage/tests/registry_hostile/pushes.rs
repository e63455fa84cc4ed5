//! Registries that lie while they are pushed to. Each push ends, with an error that says why.

use common::shelf::Shelf;
use storage::PushOptions;

use super::*;

/// The error of a push to a registry that is honest but for what the hook says.
fn refused_push(stall: Duration, hook: impl Fn(&Asked) -> Option<Reply> + Send + Sync + 'static) -> String {
    let (result, mock) = pushed(stall, &Settings::default(), hook);
    let error = result.unwrap_err();
    assert_says(&error, &[&mock.reference("1")]);
    assert!(!error.contains('\u{1b}') && !error.contains('\n'), "{error:?}");
    error
}

fn pushed(
    stall: Duration,
    settings: &Settings,
    hook: impl Fn(&Asked) -> Option<Reply> + Send + Sync + 'static,
) -> (Result<(), String>, Mock) {
    let fixture = Fixture::new();
    let shelf = Shelf::default();
    let mock = Mock::start(Content::default(), move |asked| {
        hook(asked).or_else(|| shelf.answer(asked, false))
    });
    let never = AtomicBool::new(false);
    let added = fixture
        .store
        .add_layer(&mut &layer("pushed")[..], &never)
        .unwrap();
    let config = common::image::config(&[added.diff_id], json!({})).to_string();
    let reference = mock.reference("1");
    let layers = [added.diff_id];
    fixture
        .store
        .add_image(&reference, config.as_bytes(), &layers)
        .unwrap();
    fixture.store.set_registries(patient(settings, stall));
    let options = PushOptions {
        cancel: &never,
        login: None,
        progress: None,
    };
    let result = fixture.store.push(&reference, &options);
    assert_eq!(entries(&fixture.path("store/tmp")), Vec::<String>::new());
    (result.map(drop).map_err(|e| e.to_string()), mock)
}

fn begins(asked: &Asked) -> bool {
    asked.method == "POST" && asked.path.contains("/blobs/uploads/")
}

fn puts(asked: &Asked) -> bool {
    asked.method == "PUT" && asked.path.contains("/blobs/")
}

fn names(asked: &Asked) -> bool {
    asked.method == "PUT" && asked.path.contains("/manifests/")
}

#[test]
fn uploads_that_are_sent_to_odd_places() {
    for (status, location, needle) in [
        (202, "file:///etc/passwd", "no http or https URL"),
        (202, "gopher://127.0.0.1/", "no http or https URL"),
        (202, "//127.0.0.1/x", "no http or https URL"),
        (202, "http://user:word@127.0.0.1/x", "no http or https URL"),
        (202, "relative", "no http or https URL"),
        (202, "", "no http or https URL"),
        (307, "/v2/app/blobs/uploads/", "more than 5 times"),
        (308, "file:///x", "no http or https URL"),
        (302, "/v2/app/blobs/uploads/", "redirects what is sent to it"),
        (303, "http://127.0.0.1:1/", "redirects what is sent to it"),
    ] {
        let error = refused_push(LONG, move |asked| {
            begins(asked).then(|| Reply::new(status, "").with("Location", location))
        });
        assert_says(&format!("{status} {location}: {error}"), &[needle]);
    }
    // The same for the place of the next piece.
    let error = refused_push(LONG, |asked| {
        if puts(asked) {
            return Some(Reply::new(413, ""));
        }
        (asked.method == "PATCH").then(|| {
            Reply::new(202, "")
                .with("Location", "file:///x")
                .with("Range", "0-99")
        })
    });
    assert_says(&error, &["no http or https URL"]);
}

#[test]
fn answers_to_uploads_that_are_lies() {
    let lie = format!("sha256:{}", "a".repeat(64));
    let with_digest = |status: u16| Reply::new(status, "").with("Docker-Content-Digest", lie.clone());
    let (blob, manifest) = (with_digest(201), with_digest(201));
    let odd = Reply::new(201, "").with("Docker-Content-Digest", "no digest at all");
    let reply = |is: fn(&Asked) -> bool, reply: Reply| move |asked: &Asked| is(asked).then(|| reply.clone());
    let range = |range: &'static str| {
        move |asked: &Asked| match asked.method.as_str() {
            "PUT" if puts(asked) => Some(Reply::new(413, "")),
            "PATCH" => Some(Reply::new(202, "").with("Range", range)),
            _ => None,
        }
    };
    for (name, error, needles) in [
        (
            "blob",
            refused_push(LONG, reply(puts, blob)),
            &["has stored something else", "aaaa"][..],
        ),
        (
            "manifest",
            refused_push(LONG, reply(names, manifest)),
            &["manifest 1", "has stored something else"],
        ),
        (
            "no digest",
            refused_push(LONG, reply(names, odd)),
            &["manifest 1", "no digest at all"],
        ),
        (
            "beyond the end",
            refused_push(LONG, range("0-99999999999")),
            &["says that it has 100000000000 bytes"],
        ),
        (
            "no further",
            refused_push(LONG, range("0-0")),
            &["says that it has 0 bytes"],
        ),
        (
            "largest",
            refused_push(LONG, range("0-18446744073709551614")),
            &["says that it has 18446744073709551615 bytes"],
        ),
        (
            "forbidden",
            refused_push(LONG, reply(begins, Reply::new(403, ""))),
            &["refuses access"],
        ),
        (
            "denied",
            refused_push(LONG, reply(names, Reply::new(401, ""))),
            &["refuses access"],
        ),
        (
            "teapot",
            refused_push(LONG, reply(puts, Reply::new(418, "\u{1b}[31m"))),
            &["answers 418"],
        ),
        (
            "invalid",
            refused_push(
                LONG,
                reply(
                    names,
                    Reply::new(
                        400,
                        r#"{"errors":[{"code":"MANIFEST_BLOB_UNKNOWN","message":"blob\u001b unknown"}]}"#,
                    ),
                ),
            ),
            &["answers 400 (blob  unknown)"],
        ),
    ] {
        assert_says(&format!("{name}: {error}"), needles);
    }
}

#[test]
fn uploads_that_never_end() {
    let reply = |is: fn(&Asked) -> bool, reply: Reply| move |asked: &Asked| is(asked).then(|| reply.clone());
    let endless = || {
        Reply::new(202, "")
            .with("Location", "/v2/app/blobs/uploads/u")
            .body(Body::Endless)
    };
    for (name, error, needles) in [
        (
            "always lost",
            refused_push(LONG, reply(puts, Reply::new(404, ""))),
            &["has no layer", "tried 3 times"][..],
        ),
        (
            "always too much",
            refused_push(LONG, |asked| {
                (puts(asked) || asked.method == "PATCH").then(|| Reply::new(413, ""))
            }),
            &["answers 413", "tried 3 times"],
        ),
        (
            "always busy",
            refused_push(LONG, reply(puts, Reply::new(503, ""))),
            &["answers 503", "tried 3 times"],
        ),
        (
            "busy for long",
            refused_push(
                LONG,
                reply(begins, Reply::new(429, "").with("Retry-After", "3600")),
            ),
            &["answers 429", "tried 1 times"],
        ),
        (
            "endless refusal",
            refused_push(LONG, reply(begins, Reply::new(400, "").body(Body::Endless))),
            &["answers 400"],
        ),
        (
            "stalled",
            refused_push(
                SHORT,
                reply(puts, Reply::new(201, "").body(Body::Stalled(9, vec![]))),
            ),
            &["sends nothing", "tried 3 times"],
        ),
        (
            "dripping",
            refused_push(
                SHORT,
                reply(puts, Reply::new(201, "").body(Body::Dripping(9 << 19))),
            ),
            &["next to nothing", "tried 3 times"],
        ),
        (
            "stalled at the manifest",
            refused_push(
                SHORT,
                reply(names, Reply::new(201, "").body(Body::Stalled(9, vec![]))),
            ),
            &["sends nothing", "tried 3 times"],
        ),
    ] {
        assert_says(&format!("{name}: {error}"), needles);
    }
    // Words without an end behind a good head: it has said what was wanted.
    let (result, mock) = pushed(LONG, &Settings::default(), move |asked| {
        begins(asked).then(endless)
    });
    assert_says(&result.unwrap_err(), &["tried 3 times"]);
    assert!(mock.asked().len() < 40, "{}", mock.asked().len());
}

/// What a registry says it has need not be so; a size that does not fit is no proof.
#[test]
fn a_blob_that_is_there_in_another_size_is_sent() {
    let (result, mock) = pushed(LONG, &Settings::default(), |asked| {
        let head = asked.method == "HEAD" && asked.path.contains("/blobs/");
        head.then(|| Reply::new(200, "x"))
    });
    result.unwrap();
    assert_eq!(mock.asked().iter().filter(|asked| puts(asked)).count(), 2);
}

/// A registry that is checked sends us nowhere in the clear, and to no service of this machine.
#[test]
fn an_upload_does_not_leave_tls() {
    let fixture = Fixture::new();
    let shelf = Shelf::default();
    let plain = Mock::start(Content::default(), |_| None);
    let to = format!("http://localhost:{}/v2/app/blobs/uploads/x", plain.address.port());
    let mock = Mock::start_tls(Content::default(), move |asked| match begins(asked) {
        true => Some(Reply::new(202, "").with("Location", to.clone())),
        false => shelf.answer(asked, false),
    });
    let settings = known(&fixture, &mock.name(), Some(true));
    fixture.store.set_registries(config(&settings));
    let never = AtomicBool::new(false);
    let added = fixture.store.add_layer(&mut &layer("x")[..], &never).unwrap();
    let text = common::image::config(&[added.diff_id], json!({})).to_string();
    let reference = mock.reference("1");
    fixture
        .store
        .add_image(&reference, text.as_bytes(), &[added.diff_id])
        .unwrap();
    let options = PushOptions {
        cancel: &never,
        login: None,
        progress: None,
    };
    let error = fixture.store.push(&reference, &options).unwrap_err().to_string();
    assert_says(&error, &["would leave TLS"]);
    assert_eq!(plain.asked().len(), 0);
}
