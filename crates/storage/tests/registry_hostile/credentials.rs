//! Who gets credentials, and who does not.

use super::*;

/// A server that notes what it is asked and shown.
fn witness() -> Mock {
    Mock::start(Content::default(), |_| {
        Some(Reply::new(200, r#"{"token":"caught"}"#))
    })
}

fn wants_basic(asked: &Asked) -> Option<Reply> {
    let ask = Reply::new(401, "").with("WWW-Authenticate", "Basic realm=\"x\"");
    (asked.path != "/v2/" && asked.header("authorization") != Some(BASIC)).then_some(ask)
}

#[test]
fn a_redirect_is_followed_without_credentials() {
    let fixture = Fixture::new();
    let (layout, content) = image(&fixture);
    let elsewhere = Mock::start(Content::of(&layout.dir, "1"), |asked| {
        assert!(!asked.path.contains("manifests"));
        None
    });
    let to = format!("http://127.0.0.1:{}", elsewhere.address.port());
    let mock = Mock::start(content, move |asked| {
        let moved = asked.path.contains("/blobs/");
        wants_basic(asked)
            .or_else(|| moved.then(|| Reply::new(307, "").with("Location", format!("{to}{}", asked.path))))
    });
    fixture
        .store
        .set_registries(config(&known(&fixture, &mock.name(), None)));
    pull(&fixture, &mock).unwrap();
    assert_eq!(elsewhere.asked().len(), 3);
    assert!(
        elsewhere
            .asked()
            .iter()
            .all(|asked| asked.header("authorization").is_none())
    );
    assert!(
        mock.asked_for("/blobs/")
            .iter()
            .any(|asked| asked.header("authorization") == Some(BASIC))
    );
}

#[test]
fn redirects_that_are_not_followed() {
    for (location, needle) in [
        ("file:///etc/passwd", "no http or https URL"),
        ("gopher://127.0.0.1/", "no http or https URL"),
        ("//127.0.0.1/x", "no http or https URL"),
        ("http://user:word@127.0.0.1/x", "no http or https URL"),
        ("", "no http or https URL"),
        ("/v2/app/manifests/1", "more than 5 times"),
    ] {
        let error = refused(move |asked| {
            asked
                .path
                .contains("manifests")
                .then(|| Reply::new(302, "").with("Location", location))
        });
        assert_says(&error, &[needle]);
    }
}

fn bearer(realm: String) -> impl Fn(&Asked) -> Option<Reply> + Send + Sync + 'static {
    move |asked| {
        let challenge =
            format!("Bearer realm=\"{realm}\",service=\"the service\",scope=\"repository:app:push,pull\"");
        let good = asked.header("authorization") == Some("Bearer good");
        if asked.path.starts_with("/token") {
            let shown = asked.header("authorization") == Some(BASIC);
            return Some(match shown {
                true => Reply::new(200, r#"{"access_token":"good","expires_in":60}"#),
                false => Reply::new(401, ""),
            });
        }
        (asked.path != "/v2/" && !good).then(|| Reply::new(401, "").with("WWW-Authenticate", challenge))
    }
}

/// Starts a registry whose realm is on itself.
fn bearer_registry(content: Content) -> Mock {
    let port = Arc::new(AtomicUsize::new(0));
    let own = Arc::clone(&port);
    let mock = Mock::start(content, move |asked| {
        bearer(format!("http://localhost:{}/token", own.load(Ordering::Relaxed)))(asked)
    });
    port.store(mock.address.port().into(), Ordering::Relaxed);
    mock
}

#[test]
fn a_token_for_pulling_and_nothing_else() {
    let fixture = Fixture::new();
    let (_, content) = image(&fixture);
    let mock = bearer_registry(content);
    fixture.store.set_registries(config(&Settings::default()));
    assert_says(
        &pull(&fixture, &mock).unwrap_err().to_string(),
        &["refuses access", "answers 401", "username"],
    );
    fixture
        .store
        .set_registries(config(&known(&fixture, &mock.name(), None)));
    pull(&fixture, &mock).unwrap();
    let tokens = mock.asked_for("/token");
    let path = &tokens.last().unwrap().path;
    assert_eq!(path, "/token?scope=repository%3Aapp%3Apull&service=the%20service");
    let identity = fixture.path("config.json");
    let auths = json!({"auths": {mock.name(): {"identitytoken": "who/I am"}}});
    std::fs::write(&identity, auths.to_string()).unwrap();
    let files = RegistryFiles {
        logins: vec![identity],
        ..RegistryFiles::default()
    };
    fixture
        .store
        .set_registries(RegistryConfig::new(&Settings::default(), files));
    fixture.store.prune(&Default::default(), false).unwrap();
    // This mock wants a password; what matters is how the token is shown.
    pull(&fixture, &mock).unwrap_err();
    let asked = mock.asked_for("/token").pop().unwrap();
    assert_eq!(asked.method, "POST");
    assert_says(
        &asked.body,
        &[
            "grant_type=refresh_token",
            "refresh_token=who%2FI%20am",
            "scope=repository%3Aapp%3Apull",
        ],
    );
}

#[test]
fn a_plain_registry_s_realm_elsewhere_gets_no_credentials() {
    let fixture = Fixture::new();
    let (_, content) = image(&fixture);
    let thief = witness();
    let realms = [
        format!("http://127.0.0.1:{}/token", thief.address.port()),
        format!("http://localhost:{}/token", thief.address.port()),
    ];
    for realm in realms {
        let mock = Mock::start(content.clone(), bearer(realm));
        fixture
            .store
            .set_registries(config(&known(&fixture, &mock.name(), None)));
        let error = pull(&fixture, &mock).unwrap_err().to_string();
        assert_says(&error, &["refuses access", "insecure registry"]);
    }
    assert_eq!(thief.asked_for("/token").len(), 2);
    assert!(
        thief
            .asked()
            .iter()
            .all(|asked| asked.header("authorization").is_none()),
        "{:?}",
        thief.asked()
    );
    // Nor does a token that was got there help with anything but this registry's own answer.
    for realm in ["file:///etc/passwd", "nonsense", "http://user:word@localhost/"] {
        let mock = Mock::start(content.clone(), bearer(realm.to_owned()));
        fixture
            .store
            .set_registries(config(&known(&fixture, &mock.name(), None)));
        assert_says(
            &pull(&fixture, &mock).unwrap_err().to_string(),
            &["no http or https URL"],
        );
    }
}

#[test]
fn concurrent_pulls_fetch_a_shared_layer_once() {
    let fixture = Fixture::new();
    let mut layout = Layout::new(&fixture.path("layout"));
    layout.image(None, &[(Pack::Gzip, layer("1"))]);
    let mut content = Content::of(&layout.dir, "0");
    for tag in 1..6 {
        layout.image(
            None,
            &[
                (Pack::Gzip, layer("1")),
                (Pack::Gzip, layer(&format!("top {tag}"))),
            ],
        );
        let more = Content::of(&layout.dir, &tag.to_string());
        content.extend(more);
    }
    let mock = Mock::start(content, |_| None);
    std::thread::scope(|scope| {
        for tag in 0..6 {
            let (fixture, mock) = (&fixture, &mock);
            let reference = mock.reference(&tag.to_string());
            scope.spawn(move || fixture.load(&ImageSource::Registry { reference }).unwrap());
        }
    });
    let shared = common::image::digest(&Pack::Gzip.pack(&layer("1"))).to_string();
    assert_eq!(mock.asked_for(&shared).len(), 1);
    assert_eq!(fixture.store.images().unwrap().len(), 6);
}

#[test]
fn cancelling_ends_a_stalled_pull() {
    let fixture = Fixture::new();
    let (content, sizes) = layers_of(&fixture);
    let mock = Mock::start(content, move |asked| {
        let size = to_layers(asked, &sizes)?;
        Some(Reply::new(200, "").body(Body::Stalled(size, vec![0; 512])))
    });
    // Default patience: far longer than a test may take.
    let cancel = AtomicBool::new(false);
    let error = std::thread::scope(|scope| {
        let reference = mock.reference("1");
        let (cancel, fixture) = (&cancel, &fixture);
        let pull = scope.spawn(move || {
            fixture
                .store
                .load(&ImageSource::Registry { reference }, &LoadOptions::new(cancel))
        });
        while mock.asked_for("/blobs/").len() < 3 {
            std::thread::sleep(Duration::from_millis(1));
        }
        cancel.store(true, Ordering::Relaxed);
        pull.join().unwrap().unwrap_err()
    });
    assert!(matches!(error, StoreError::Cancelled { .. }), "{error}");
    fixture.assert_empty();
}

#[test]
fn search_goes_through_registries_in_turn() {
    let fixture = Fixture::new();
    let (_, content) = image(&fixture);
    let (empty, full) = (
        Mock::start(Content::default(), |_| None),
        Mock::start(content, |_| None),
    );
    let settings = Settings {
        search: vec![empty.name(), full.name()],
        ..Settings::default()
    };
    fixture.store.set_registries(config(&settings));
    let reference = |name: &str| ImageSource::Registry {
        reference: name.to_owned(),
    };
    assert_eq!(fixture.load(&reference("app:1")).unwrap().key, "app:1");
    let error = fixture.load(&reference("app:2")).unwrap_err().to_string();
    assert_says(&error, &[&empty.name(), &full.name(), "has no manifest 2"]);
    assert!(
        fixture
            .load(&reference(&format!("{}/app:1", empty.name())))
            .is_err()
    );
}

const TRUST: &str = "STORAGE_TEST_TRUST";

/// Environment variables say which authorities the system has, so this runs once more in a process that has ours.
#[test]
fn credentials_go_elsewhere_only_over_checked_tls() {
    if std::env::var_os(TRUST).is_none() {
        let authority = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/certificates/authority.pem");
        let output = Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "credentials::credentials_go_elsewhere_only_over_checked_tls",
            ])
            .env(TRUST, "1")
            .env("SSL_CERT_FILE", authority)
            .env_remove("SSL_CERT_DIR")
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && said.contains("1 passed"), "{said}");
        return;
    }
    let fixture = Fixture::new();
    let (_, content) = image(&fixture);
    let service = Mock::start_tls(Content::default(), |asked| {
        let good = asked.header("authorization") == Some(BASIC);
        Some(Reply::new(if good { 200 } else { 401 }, r#"{"token":"good"}"#))
    });
    let realm = format!("https://localhost:{}/token", service.address.port());
    let registry = Mock::start_tls(content.clone(), bearer(realm.clone()));
    // Checked on both sides: the service gets them.
    fixture
        .store
        .set_registries(config(&known(&fixture, &registry.name(), Some(false))));
    let pulled = fixture.load(&ImageSource::Registry {
        reference: registry.reference("1"),
    });
    pulled.unwrap();
    assert_eq!(
        service.asked().last().unwrap().header("authorization"),
        Some(BASIC)
    );
    // The registry's certificate unchecked, or no TLS at all: anybody could have named that realm.
    let plain = Mock::start(content, bearer(realm));
    for (mock, insecure) in [(&registry, Some(true)), (&plain, None)] {
        fixture.store.prune(&Default::default(), false).unwrap();
        fixture
            .store
            .set_registries(config(&known(&fixture, &mock.name(), insecure)));
        assert_says(
            &pull(&fixture, mock).unwrap_err().to_string(),
            &["refuses access"],
        );
        assert_eq!(service.asked().last().unwrap().header("authorization"), None);
    }
}

#[test]
fn certificates_are_checked_unless_the_settings_say_otherwise() {
    let fixture = Fixture::new();
    let (_, content) = image(&fixture);
    let registry = Mock::start_tls(content, |_| None);
    let with = |insecure| Settings {
        registries: [(
            registry.name(),
            RegistrySettings {
                insecure: Some(insecure),
                ..Default::default()
            },
        )]
        .into(),
        ..Settings::default()
    };
    fixture.store.set_registries(config(&with(false)));
    let error = pull(&fixture, &registry).unwrap_err().to_string();
    assert_says(&error, &["is not trusted", "insecure = true", &registry.name()]);
    fixture.store.set_registries(config(&with(true)));
    pull(&fixture, &registry).unwrap();

    let plain = witness();
    let settings = Settings {
        registries: [(
            plain.name(),
            RegistrySettings {
                insecure: Some(false),
                ..Default::default()
            },
        )]
        .into(),
        ..Settings::default()
    };
    fixture.store.set_registries(config(&settings));
    pull(&fixture, &plain).unwrap_err();
    assert_eq!(plain.asked().len(), 0, "nothing was said in the clear");
}
