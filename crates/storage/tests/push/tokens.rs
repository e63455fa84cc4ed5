//! A registry with TLS of an authority of the tests, and one that wants tokens of a service beside it.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use common::mock::{Asked, Content, Mock, Reply};
use rustls::SignatureScheme;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use storage::Login;
use tests::registry::authority;

use super::*;

/// A registry whose certificate has to be good.
fn checked(registry: &Registry) -> (String, RegistryConfig) {
    let name = format!("localhost:{}", registry.port());
    let table = RegistrySettings {
        insecure: Some(false),
        ca: Some(authority()),
        ..Default::default()
    };
    let settings = Settings {
        registries: [(name.clone(), table)].into(),
        ..Settings::default()
    };
    (name, RegistryConfig::new(&settings, RegistryFiles::default()))
}

#[test]
fn over_tls_of_an_authority_of_its_own() {
    let fixture = Fixture::new();
    let options = Options {
        tls: true,
        login: true,
        ..Options::default()
    };
    let registry = Registry::start_as(&fixture.path("registry"), options);
    let (name, config) = checked(&registry);
    let reference = format!("{name}/app:1");
    let image = made(&fixture, &reference, &[layer("one"), noise(1, 300_000)]);
    let table = RegistrySettings {
        insecure: Some(false),
        ..Default::default()
    };
    let settings = Settings {
        registries: [(name.clone(), table)].into(),
        ..Settings::default()
    };
    fixture.store.set_registries(hasty(&settings));
    assert_says(
        &push(&fixture.store, &reference).unwrap_err().to_string(),
        &["is not trusted"],
    );
    let config = config.with_login(Login::password(&name, USER, PASSWORD));
    config
        .check_login(&Login::password(&name, USER, PASSWORD), &false.into())
        .unwrap();
    fixture.store.set_registries(config.clone());
    push(&fixture.store, &reference).unwrap();
    pulled_elsewhere(&fixture, &reference, config, &image);
}

/// Signs as RFC 7515 has it, ES256, by the key of the tests' certificate.
fn token(access: &serde_json::Value) -> String {
    let read = |name: &str| authority().with_file_name(name);
    let certificate = CertificateDer::from_pem_file(read("localhost.pem")).unwrap();
    let key = PrivateKeyDer::from_pem_file(read("localhost.key")).unwrap();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let head = json!({ "typ": "JWT", "alg": "ES256", "x5c": [STANDARD.encode(&certificate)] });
    let claims = json!({ "iss": "tests", "sub": "x", "aud": "tests", "exp": now + 600, "nbf": now - 60, "iat": now,
        "jti": "1", "access": access });
    let text = [head, claims]
        .map(|part| URL_SAFE_NO_PAD.encode(part.to_string()))
        .join(".");
    let key = rustls::crypto::ring::sign::any_ecdsa_type(&key).unwrap();
    let signer = key
        .choose_scheme(&[SignatureScheme::ECDSA_NISTP256_SHA256])
        .unwrap();
    let signature = flat(&signer.sign(text.as_bytes()).unwrap());
    format!("{text}.{}", URL_SAFE_NO_PAD.encode(signature))
}

/// The two numbers of a signature in DER (RFC 3279 §2.2.3), 32 bytes each (RFC 7518 §3.4).
fn flat(der: &[u8]) -> Vec<u8> {
    let (mut at, mut flat) = (2, Vec::new());
    for _ in 0..2 {
        let length = usize::from(der[at + 1]);
        let number = &der[at + 2..at + 2 + length];
        let number = &number[number.len().saturating_sub(32)..];
        flat.extend(vec![0; 32 - number.len()]);
        flat.extend(number);
        at += 2 + length;
    }
    flat
}

/// What was asked for as `scope=repository:NAME:ACTIONS` is granted to whoever logs in, but pushing to `closed/…`.
fn granted(asked: &Asked) -> Option<Reply> {
    let (path, query) = asked.path.split_once('?')?;
    let wanted = format!("Basic {}", STANDARD.encode(format!("{USER}:{PASSWORD}")));
    if path != "/token" || asked.header("authorization") != Some(wanted.as_str()) {
        return Some(Reply::new(401, r#"{"details":"who are you"}"#));
    }
    let scopes = query.split('&').filter_map(|pair| pair.strip_prefix("scope="));
    let access: Vec<_> = scopes
        .filter_map(|scope| {
            let scope = scope
                .replace("%3A", ":")
                .replace("%2F", "/")
                .replace("%2C", ",")
                .replace("%2A", "*");
            let mut parts = scope.split(':').map(str::to_owned);
            let (kind, name, actions) = (parts.next()?, parts.next()?, parts.next()?);
            let closed = name.starts_with("closed/");
            let actions: Vec<_> = actions
                .split(',')
                .filter(|action| !closed || *action != "push")
                .collect();
            Some(json!({ "type": kind, "name": name, "actions": actions }))
        })
        .collect();
    Some(Reply::new(
        200,
        json!({ "token": token(&json!(access)) }).to_string(),
    ))
}

#[test]
fn tokens_for_just_what_is_done() {
    let fixture = Fixture::new();
    let count = AtomicUsize::new(0);
    let service = Mock::start_tls(Content::default(), move |asked| {
        count.fetch_add(1, Ordering::Relaxed);
        granted(asked)
    });
    let options = Options {
        tls: true,
        tokens_of: Some(service.address.port()),
        ..Options::default()
    };
    let registry = Registry::start_as(&fixture.path("registry"), options);
    let (name, config) = checked(&registry);
    let never = AtomicBool::new(false);
    let error = config
        .check_login(&Login::password(&name, USER, "wrong"), &never)
        .unwrap_err();
    assert!(error.is_denied(), "{error}");
    let login = Login::password(&name, USER, PASSWORD);
    config.check_login(&login, &never).unwrap();
    let last = || service.asked().pop().unwrap().path;
    assert_eq!(last(), "/token?service=tests");

    let config = config.with_login(login);
    fixture.store.set_registries(config.clone());
    let one = format!("{name}/team/one:1");
    let image = made(&fixture, &one, &[layer("one"), noise(2, 200_000)]);
    push(&fixture.store, &one).unwrap();
    assert_eq!(
        last(),
        "/token?scope=repository%3Ateam%2Fone%3Apull%2Cpush&service=tests"
    );
    // The same elsewhere on the registry: what is to be mounted may be pulled.
    let two = format!("{name}/two:1");
    fixture.store.tag(&one, &two).unwrap();
    let (pushed, how) = steps(&fixture.store, &two);
    let mounted = PushStep::Mounted {
        from: "team/one".to_owned(),
    };
    assert_eq!((pushed.unchanged, how), (true, vec![mounted; 2]));
    assert_eq!(
        last(),
        "/token?scope=repository%3Atwo%3Apull%2Cpush&scope=repository%3Ateam%2Fone%3Apull&service=tests"
    );
    pulled_elsewhere(&fixture, &two, config.clone(), &image);
    assert_eq!(last(), "/token?scope=repository%3Atwo%3Apull&service=tests");
    let hits = config.search(&name, "o", 10, &never).unwrap();
    assert_eq!(
        hits.into_iter().map(|hit| hit.name).collect::<Vec<_>>(),
        ["team/one", "two"]
    );
    assert_eq!(last(), "/token?scope=registry%3Acatalog%3A%2A&service=tests");
    // Who may not push is told so.
    let closed = format!("{name}/closed/x:1");
    fixture.store.tag(&one, &closed).unwrap();
    let error = push(&fixture.store, &closed).unwrap_err().to_string();
    assert_says(&error, &[&closed, "refuses access", "may push there"]);
}
