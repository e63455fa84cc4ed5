//! Answers as they should be, and as they should not.

use std::io::{Read, Write};
use std::net::TcpListener;

use hyper::body::Bytes;

use super::watch::{Lines, events};
use super::*;

const HEADER: &str = r#""header":{"cluster_id":"9223372036854775808","revision":"7"}"#;

/// A member that answers each connection's question with these bytes, and then hangs up.
fn member(answers: Vec<Vec<u8>>) -> EtcdUrl {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for answer in answers {
            let (mut stream, _) = listener.accept().unwrap();
            let mut question = Vec::new();
            // Questions are shorter than a packet and end with the body's brace.
            while !question.ends_with(b"}") {
                let mut some = [0; 4096];
                match stream.read(&mut some) {
                    Ok(count) if count > 0 => question.extend(&some[..count]),
                    _ => break,
                }
            }
            // Who has heard enough hangs up.
            drop(stream.write_all(&answer));
        }
    });
    url.parse().unwrap()
}

fn good(body: &str) -> Vec<u8> {
    format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len()).into_bytes()
}

fn client(members: Vec<EtcdUrl>) -> Client {
    Client::new(&ClusterSettings {
        etcd: members,
        ..ClusterSettings::default()
    })
    .unwrap()
}

fn run<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(work)
}

fn below(answer: Vec<u8>) -> Result<Below, String> {
    let mut client = client(vec![member(vec![answer])]);
    let result = run(async { client.below("/a/").await });
    result.map_err(|e| e.to_string().split_once(' ').unwrap().1.to_owned())
}

#[test]
fn keys_are_read() {
    let kv = r#"{"key":"L2EvYg==","value":"e30=","mod_revision":"5","version":"1","lease":"9","new":[]}"#;
    let found = below(good(&format!("{{{HEADER},\"kvs\":[{kv}],\"count\":\"1\"}}"))).unwrap();
    let at = Moment {
        cluster: 1 << 63,
        revision: 7,
    };
    let entry = Entry {
        key: "/a/b".to_owned(),
        value: b"{}".to_vec(),
        written: 5,
        lease: 9,
    };
    assert_eq!((found.at, found.entries), (at, vec![entry]));
    assert!(below(good(&format!("{{{HEADER}}}"))).unwrap().entries.is_empty());
}

#[test]
fn what_is_no_answer_is_an_error() {
    for body in [
        "",
        "<html>",
        "[]",
        "{}",
        "{\"header\":5}",
        "{\"header\":{\"revision\":\"x\"}}",
        "{\"header\":{\"revision\":{}}}",
        "{\"header\":{\"revision\":\"99999999999999999999\"}}",
        &format!("{{{HEADER},\"kvs\":{{}}}}"),
        &format!("{{{HEADER},\"kvs\":[{{\"key\":\"!\"}}]}}"),
        &format!("{{{HEADER},\"kvs\":[{{\"key\":\"//8=\"}}]}}"),
        &format!("{{{HEADER},\"kvs\":[{{\"lease\":true}}]}}"),
        &"[".repeat(1 << 20),
    ] {
        let why = below(good(body)).unwrap_err();
        assert!(why.starts_with("sent what is no answer of etcd's"), "{why}");
    }
    let more = below(good(&format!("{{{HEADER},\"more\":true}}"))).unwrap_err();
    assert!(more.contains("more than 20000 keys"), "{more}");
}

#[test]
fn what_is_too_large_or_cut_off_is_an_error() {
    let mut huge = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", 40 << 20).into_bytes();
    huge.resize(20 << 20, b' ');
    assert_eq!(
        below(huge).unwrap_err(),
        "sent an answer of more than 16777216 bytes"
    );
    let cut = b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{\"header\"".to_vec();
    assert!(below(cut).unwrap_err().starts_with("broke off its answer"));
    let chunk = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\n{".to_vec();
    assert!(below(chunk).unwrap_err().starts_with("broke off its answer"));
    let mut head = b"HTTP/1.1 200 OK\r\nX: ".to_vec();
    head.resize(1 << 20, b'x');
    assert!(below(head).unwrap_err().starts_with("broke off its answer"));
    assert!(
        below(b"SSH-2.0-x\r\n".to_vec())
            .unwrap_err()
            .starts_with("broke off its answer")
    );
    assert!(below(Vec::new()).unwrap_err().starts_with("broke off its answer"));
}

#[test]
fn a_refusal_is_told_in_its_words_and_no_more() {
    let refusal = |status: &str, body: &str| {
        let answer = format!(
            "HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        below(answer.into_bytes()).unwrap_err()
    };
    let why = refusal(
        "404 Not Found",
        r#"{"error":"x","message":"requested lease\u001b not found","code":5}"#,
    );
    assert_eq!(why, "refused: requested lease not found");
    assert_eq!(
        refusal("503 Service Unavailable", "<html>"),
        "refused: it answers 503 Service Unavailable"
    );
    assert_eq!(refusal("302 Found", ""), "refused: it answers 302 Found");
    let long = refusal(
        "400 Bad Request",
        &format!("{{\"message\":\"{}\"}}", "x".repeat(5000)),
    );
    assert_eq!(long.len(), "refused: ".len() + 300);
}

#[test]
fn the_next_member_is_asked_where_one_does_not_answer() {
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap();
    let away: EtcdUrl = format!("http://{}", nobody.local_addr().unwrap())
        .parse()
        .unwrap();
    drop(nobody);
    let ill = member(vec![b"HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n".to_vec()]);
    let answer = good(&format!("{{{HEADER},\"succeeded\":true}}"));
    let well = member(vec![answer.clone(), answer]);
    let mut client = client(vec![away, ill, well]);
    run(async {
        assert_eq!(client.change(&Change::default()).await.unwrap(), Some(7));
        // The one that answered is the one to be asked, though it hung up meanwhile.
        assert_eq!(client.change(&Change::default()).await.unwrap(), Some(7));
        // Now nobody does, and the last one's reason is told.
        assert!(client.change(&Change::default()).await.is_err());
    });
}

#[test]
fn a_lease_that_is_gone_is_no_error() {
    let gone = good(&format!("{{\"result\":{{{HEADER},\"ID\":\"5\"}}}}\n"));
    let there = good(&format!(
        "{{\"result\":{{{HEADER},\"ID\":\"5\",\"TTL\":\"300\"}}}}\n"
    ));
    let none = good(&format!("{{{HEADER}}}"));
    let mut client = client(vec![member(vec![gone, there, none])]);
    run(async {
        assert!(!client.keep_alive(5).await.unwrap());
        assert!(client.keep_alive(5).await.unwrap());
        assert!(client.grant(300).await.is_err(), "it has no number");
    });
}

#[test]
fn a_watch_tells_what_happens_until_it_is_cut() {
    let line = |inner: &str| format!("{{\"result\":{{{HEADER},{inner}}}}}\n");
    let put = r#"{"kv":{"key":"YQ==","mod_revision":"8","value":"MQ=="}}"#;
    let deleted = r#"{"type":"DELETE","kv":{"key":"YQ==","mod_revision":"9"}}"#;
    let body = line("\"created\":true")
        + "\n"
        + &line(&format!("\"events\":[{put},{deleted}]"))
        + "{\"result\":{\"ev";
    let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n";
    let mut client = client(vec![member(vec![format!("{head}{body}").into_bytes()])]);
    run(async {
        let mut watch = client.watch("/a/", 8).await.unwrap();
        let told = watch.next().await.unwrap().unwrap();
        assert!(
            matches!(&told[..], [Event::Put(entry), Event::Deleted(key, 9)] if entry.key == "a" && key == "a")
        );
        // A line that has no end is none: what happened since is read anew.
        assert!(watch.next().await.unwrap().is_none());
    });
    assert_eq!(
        events(line("\"canceled\":true,\"compact_revision\":\"5\"").as_bytes()),
        Ok(None)
    );
    for bad in [
        "{}",
        "{\"error\":{\"message\":\"no leader\"}}",
        "{\"result\":{\"events\":5}}",
        "{\"result\":{\"events\":[{\"type\":\"RENAME\",\"kv\":{}}]}}",
        "not json",
    ] {
        assert!(events(bad.as_bytes()).is_err(), "{bad}");
    }
}

#[test]
fn a_line_that_never_ends_is_given_up() {
    let mut endless = b"HTTP/1.1 200 OK\r\n\r\n".to_vec();
    endless.resize(18 << 20, b'x');
    let mut client = client(vec![member(vec![endless])]);
    let error = run(async { client.watch("/a/", 1).await.unwrap().next().await.unwrap_err() });
    assert!(matches!(error, EtcdError::TooLarge { .. }), "{error}");
}

#[test]
fn lines_come_out_whole_however_they_are_cut() {
    let stream = b"one\ntwo\n\n \nthree\nrest";
    for cut in 1..stream.len() {
        let mut lines = Lines::default();
        let mut seen = Vec::new();
        for part in stream.chunks(cut) {
            lines.feed(&Bytes::copy_from_slice(part));
            seen.extend(std::iter::from_fn(|| lines.next()));
        }
        assert_eq!(
            seen,
            [b"one\n".to_vec(), b"two\n".to_vec(), b"three\n".to_vec()],
            "cut {cut}"
        );
        assert_eq!(lines.held(), 4);
    }
}

#[test]
fn a_prefix_ends_where_another_begins() {
    assert_eq!(end_of("/a/"), b"/a0");
    let change = Change {
        unless_written: vec![("/a/".to_owned(), 6)],
        unless_there: vec!["/a/b".to_owned()],
        puts: vec![("/a/b".to_owned(), "1".to_owned(), 5)],
        deletes: vec!["/a/c".to_owned()],
    };
    let expected = json!({
        "compare": [
            { "target": "MOD", "result": "LESS", "key": "L2Ev", "range_end": "L2Ew", "mod_revision": "7" },
            { "target": "CREATE", "result": "EQUAL", "key": "L2EvYg==", "create_revision": "0" },
        ],
        "success": [
            { "request_put": { "key": "L2EvYg==", "value": "MQ==", "lease": "5" } },
            { "request_delete_range": { "key": "L2EvYw==" } },
        ],
    });
    assert_eq!(question_of(&change), expected);
}
