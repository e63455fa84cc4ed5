//! Searches: registries that have one, lists that are long, endless, or of somebody else.

use storage::{Hit, MOST_HITS, RegistryError};

use super::*;

fn search(mock: &Mock, term: &str, limit: usize) -> Result<Vec<Hit>, RegistryError> {
    let never = AtomicBool::new(false);
    config(&Settings::default()).search(&mock.name(), term, limit, &never)
}

fn page(names: impl Iterator<Item = String>, next: Option<String>) -> Reply {
    let names: Vec<String> = names.collect();
    let reply = Reply::new(200, json!({ "repositories": names }).to_string());
    match next {
        Some(next) => reply.with("Link", format!("<{next}>; rel=\"next\"")),
        None => reply,
    }
}

/// So many names `team/app-0000001`, so many a page.
fn long(count: usize, each: usize) -> impl Fn(&Asked) -> Option<Reply> + Send + Sync + 'static {
    move |asked| {
        let from: usize = asked
            .path
            .starts_with("/v2/_catalog")
            .then(|| asked.query("last").map_or(0, |last| last.parse().unwrap()))?;
        let end = (from + each).min(count);
        let next = (end < count).then(|| format!("/v2/_catalog?n=1000&last={end}"));
        Some(page((from..end).map(|n| format!("team/app-{n:07}")), next))
    }
}

#[test]
fn two_hundred_thousand_repositories() {
    let mock = Mock::start(Content::default(), long(200_000, 1000));
    let hits = search(&mock, "app-0199", 5000).unwrap();
    assert_eq!(hits.len(), MOST_HITS);
    assert_eq!(hits[0].name, "team/app-0199000");
    let asked = mock.asked_for("/v2/_catalog").len();
    assert_eq!(asked, 200);
    // No more is read than is wanted.
    assert_eq!(search(&mock, "app", 10).unwrap().len(), 10);
    assert_eq!(mock.asked_for("/v2/_catalog").len(), asked + 1);
    let mock = Mock::start(Content::default(), long(100_000_000, 10));
    assert_says(
        &search(&mock, "none", 10).unwrap_err().to_string(),
        &["more than 300 pages"],
    );
    assert_eq!(mock.asked_for("/v2/_catalog").len(), 300);
}

#[test]
fn lists_that_are_not_taken() {
    let catalogue =
        |reply: Reply| move |asked: &Asked| asked.path.starts_with("/v2/_catalog").then(|| reply.clone());
    let names = || ["a".to_owned()].into_iter();
    for (name, reply, needles) in [
        (
            "itself",
            page(names(), Some("/v2/_catalog?n=1000".to_owned())),
            &["the same page again"][..],
        ),
        (
            "elsewhere",
            page(names(), Some("http://127.0.0.1:1/v2/_catalog".to_owned())),
            &["none of its own"],
        ),
        (
            "file",
            page(names(), Some("file:///v2/_catalog".to_owned())),
            &["none of its own"],
        ),
        (
            "another route",
            page(names(), Some("/v2/app/manifests/1".to_owned())),
            &["none of its own"],
        ),
        ("no list", Reply::new(200, "[]"), &["cannot be read"]),
        ("deep", Reply::new(200, "[".repeat(1 << 20)), &["cannot be read"]),
        (
            "endless",
            Reply::new(200, "").body(Body::Endless),
            &["more than the 4194304 bytes"],
        ),
        ("none", Reply::new(404, ""), &["has no the list of repositories"]),
        ("closed", Reply::new(401, ""), &["refuses access"]),
        ("busy", Reply::new(503, ""), &["answers 503", "tried 3 times"]),
    ] {
        let mock = Mock::start(Content::default(), catalogue(reply));
        let error = search(&mock, "wanted", 10).unwrap_err().to_string();
        assert_says(&format!("{name}: {error}"), needles);
    }
    // Names that are none would do harm on a terminal or in a file.
    let odd = ["a\u{1b}[31mwanted", "../wanted", "WANTED", "wanted", "x/wanted"].map(str::to_owned);
    let mock = Mock::start(Content::default(), catalogue(page(odd.into_iter(), None)));
    let found: Vec<String> = search(&mock, "wanted", 10)
        .unwrap()
        .into_iter()
        .map(|hit| hit.name)
        .collect();
    assert_eq!(found, ["wanted", "x/wanted"]);
}

#[test]
fn the_first_version_s_search_where_there_is_one() {
    let results = json!({ "num_results": 3, "results": [
        { "name": "web", "description": "serves\u{1b}[31m", "star_count": 12, "is_official": true },
        { "name": "team/web", "description": null, "star_count": 1.5, "is_automated": true },
        { "name": "odd name", "star_count": -1 },
    ]});
    let mock = Mock::start(Content::default(), move |asked| {
        let (q, n) = (asked.query("q"), asked.query("n"));
        (asked.path.starts_with("/v1/search?") && q == Some("w%26b") && n == Some("7"))
            .then(|| Reply::new(200, results.to_string()))
    });
    let hits = search(&mock, "w&b", 7).unwrap();
    let told: Vec<_> = hits
        .iter()
        .map(|hit| {
            (
                hit.name.as_str(),
                hit.description.as_str(),
                hit.stars,
                hit.official,
                hit.automated,
            )
        })
        .collect();
    assert_eq!(
        told,
        [
            ("web", "serves [31m", 12, true, false),
            ("team/web", "", 1, false, true)
        ]
    );
    assert_eq!(mock.asked_for("_catalog").len(), 0);
    // What answers with something else has none.
    let mock = Mock::start(Content::default(), |asked| match asked.path.as_str() {
        path if path.starts_with("/v1/search") => Some(Reply::new(200, "<html>")),
        path if path.starts_with("/v2/_catalog") => Some(page(["web".to_owned()].into_iter(), None)),
        _ => None,
    });
    assert_eq!(search(&mock, "web", 7).unwrap()[0].name, "web");
}
