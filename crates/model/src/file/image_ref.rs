//! What `image = "…"` may say, and its one normal spelling.

use std::path::PathBuf;

use crate::image::ImageSource;

/// Why a text names no image, and what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{problem}: {hint}")]
pub struct ImageError {
    pub problem: String,
    pub hint: &'static str,
}

fn bad(problem: impl Into<String>, hint: &'static str) -> ImageError {
    ImageError {
        problem: problem.into(),
        hint,
    }
}

/// Reads an image reference: a local layout or archive, else a registry's by docker.io's rules.
///
/// One that names no registry is looked for in those of `search`: the only one is filled in; several are left to whoever
/// asks them.
pub(super) fn parse(text: &str, search: &[String]) -> Result<ImageSource, ImageError> {
    if let Some(rest) = text.strip_prefix("oci:") {
        let (dir, reference) = local(text, rest)?;
        Ok(ImageSource::Oci { dir, reference })
    } else if let Some(rest) = text.strip_prefix("oci-archive:") {
        let (file, reference) = local(text, rest)?;
        Ok(ImageSource::OciArchive { file, reference })
    } else if let Some(rest) = text.strip_prefix("docker-archive:") {
        let (file, reference) = local(text, rest)?;
        Ok(ImageSource::DockerArchive { file, reference })
    } else {
        let reference = registry(text, search)?;
        Ok(ImageSource::Registry { reference })
    }
}

/// `PATH[:REF]`; a path has no colon, a reference may.
fn local(whole: &str, rest: &str) -> Result<(PathBuf, Option<String>), ImageError> {
    let (path, reference) = match rest.split_once(':') {
        Some((path, reference)) => (path, Some(reference)),
        None => (rest, None),
    };
    if !path.starts_with('/') || path.contains('\0') {
        let problem = format!("needs an absolute path, not {path:?}");
        return Err(bad(problem, "write the whole path after the colon, from / on"));
    }
    if reference.is_some_and(|r| r.is_empty() || r.contains(char::is_whitespace)) {
        return Err(bad(
            format!("{whole:?} has no reference after its last colon"),
            "take the colon away to use the only image there",
        ));
    }
    let trimmed = path.trim_end_matches('/');
    let path = if trimmed.is_empty() { "/" } else { trimmed };
    Ok((PathBuf::from(path), reference.map(str::to_owned)))
}

/// `[HOST[:PORT]/]PATH[:TAG][@DIGEST]`, with docker.io, library/ and :latest filled in.
fn registry(text: &str, search: &[String]) -> Result<String, ImageError> {
    if let Some((scheme, _)) = text.split_once("://") {
        let problem = format!("has {scheme}:// in front");
        return Err(bad(
            problem,
            "write the registry's name alone: registry.example/app:1",
        ));
    }
    if text.starts_with(['/', '.', '~']) {
        return Err(bad(
            format!("{text:?} is no image reference"),
            "for a local image write oci:DIR, oci-archive:FILE or docker-archive:FILE; for a directory use `rootfs`",
        ));
    }
    let (rest, digest) = match text.split_once('@') {
        Some((rest, digest)) => (rest, Some(check_digest(digest)?)),
        None => (text, None),
    };
    let (domain, path) = split_domain(rest)?;
    let domain = match (domain, search) {
        (Some(domain), _) => Some(domain),
        (None, [only]) => Some(only.as_str()),
        (None, _) => None,
    };
    let (path, tag) = match path.split_once(':') {
        Some((path, tag)) => (path, Some(check_tag(tag)?)),
        None => (path, None),
    };
    for part in path.split('/') {
        check_part(part, text)?;
    }
    let library = if domain == Some("docker.io") && !path.contains('/') {
        "library/"
    } else {
        ""
    };
    let tag = match (tag, digest) {
        (Some(tag), _) => format!(":{tag}"),
        (None, None) => ":latest".to_owned(),
        (None, Some(_)) => String::new(),
    };
    let digest = digest.map(|d| format!("@{d}")).unwrap_or_default();
    let domain = domain.map(|d| format!("{d}/")).unwrap_or_default();
    Ok(format!("{domain}{library}{path}{tag}{digest}"))
}

/// The first part is a registry's name when it looks like a host: with a dot, a colon, or `localhost`.
fn split_domain(text: &str) -> Result<(Option<&str>, &str), ImageError> {
    let Some((first, rest)) = text.split_once('/') else {
        return Ok((None, text));
    };
    if !first.contains(['.', ':']) && first != "localhost" {
        return Ok((None, text));
    }
    let (host, port) = match first.rsplit_once(':') {
        Some((host, port)) if !host.starts_with('[') || host.ends_with(']') => (host, Some(port)),
        _ => (first, None),
    };
    let good_host = !host.is_empty()
        && host
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '[' | ']' | ':'));
    let good_port = port.is_none_or(|p| p.parse::<u16>().is_ok_and(|n| n > 0));
    if !good_host || !good_port {
        let problem = format!("has {first:?}, which is no registry's HOST[:PORT]");
        return Err(bad(problem, "write registry.example:5000/app:1"));
    }
    let domain = if first == "index.docker.io" {
        "docker.io"
    } else {
        first
    };
    Ok((Some(domain), rest))
}

fn check_part(part: &str, whole: &str) -> Result<(), ImageError> {
    let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let good = part.starts_with(inner)
        && part.ends_with(inner)
        && part.chars().all(|c| inner(c) || matches!(c, '.' | '_' | '-'));
    if good {
        return Ok(());
    }
    Err(bad(
        format!("{whole:?} is no image reference"),
        "an image's name has lower-case letters, digits, and . _ - between them",
    ))
}

fn check_tag(tag: &str) -> Result<&str, ImageError> {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let good =
        tag.len() <= 128 && tag.starts_with(word) && tag.chars().all(|c| word(c) || matches!(c, '.' | '-'));
    if good {
        return Ok(tag);
    }
    Err(bad(
        format!("has {tag:?} as its tag"),
        "a tag has at most 128 letters, digits, and _ . -",
    ))
}

fn check_digest(digest: &str) -> Result<&str, ImageError> {
    digest
        .strip_prefix("sha256:")
        .filter(|hex| {
            hex.len() == 64
                && hex
                    .bytes()
                    .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
        })
        .map(|_| digest)
        .ok_or_else(|| {
            let problem = format!("has {digest:?} as its digest");
            bad(
                problem,
                "a digest is sha256: and 64 hexadecimal digits in lower case",
            )
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_have_one_spelling() {
        let digest = format!("sha256:{}", "a".repeat(64));
        for (text, key) in [
            ("nginx", "docker.io/library/nginx:latest"),
            ("nginx:1.27", "docker.io/library/nginx:1.27"),
            ("docker.io/nginx", "docker.io/library/nginx:latest"),
            ("index.docker.io/nginx", "docker.io/library/nginx:latest"),
            ("user/app", "docker.io/user/app:latest"),
            ("localhost/x", "localhost/x:latest"),
            ("localhost:5000/x", "localhost:5000/x:latest"),
            ("[::1]:5000/x", "[::1]:5000/x:latest"),
            ("ghcr.io/a/b/c:v1", "ghcr.io/a/b/c:v1"),
            (
                &format!("nginx@{digest}"),
                &format!("docker.io/library/nginx@{digest}"),
            ),
            (
                &format!("nginx:1@{digest}"),
                &format!("docker.io/library/nginx:1@{digest}"),
            ),
            ("oci:/srv/web", "oci:/srv/web"),
            ("oci:/srv/web/:1.27", "oci:/srv/web:1.27"),
            ("oci-archive:/srv/web.tar", "oci-archive:/srv/web.tar"),
            (
                "docker-archive:/srv/w.tar:nginx:1.27",
                "docker-archive:/srv/w.tar:nginx:1.27",
            ),
        ] {
            assert_eq!(parse(text, &docker()).unwrap().key(), key, "{text}");
        }
    }

    fn docker() -> Vec<String> {
        vec!["docker.io".to_owned()]
    }

    #[test]
    fn what_names_no_registry_is_looked_for() {
        let one = ["registry.example".to_owned()];
        let two = ["registry.example".to_owned(), "docker.io".to_owned()];
        for (text, search, key) in [
            ("nginx", &one[..], "registry.example/nginx:latest"),
            ("team/app:1", &one, "registry.example/team/app:1"),
            ("docker.io/nginx", &one, "docker.io/library/nginx:latest"),
            ("nginx:1", &two, "nginx:1"),
            ("localhost:5000/x", &two, "localhost:5000/x:latest"),
        ] {
            assert_eq!(parse(text, search).unwrap().key(), key, "{text}");
        }
    }

    #[test]
    fn what_is_no_image_is_said() {
        for text in [
            "",
            "Nginx",
            "/srv/web",
            "./web",
            "oci:web",
            "oci:",
            "oci:/srv/web:",
            "docker://nginx",
            "nginx:",
            "nginx:a b",
            "nginx@sha256:abc",
            "a//b",
            "x.y:99999/a",
            "-a",
        ] {
            assert!(parse(text, &docker()).is_err(), "{text:?}");
        }
    }
}
