//! The parts of a registry reference, as `model` has normalised it: `HOST[:PORT]/PATH[:TAG][@DIGEST]`.

use model::digest::Digest;

use super::error::RegistryError;

/// Longest repository name, with its registry (distribution, reference.go).
const MAX_NAME: usize = 255;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reference {
    /// None where the text names no registry: those of `registries.search` are asked in turn.
    pub registry: Option<String>,
    pub path: String,
    pub tag: Option<String>,
    pub digest: Option<Digest>,
}

impl Reference {
    /// Everything that ends up in a URL is checked here once more: a reference may come from a client of the API.
    pub fn parse(text: &str) -> Result<Self, RegistryError> {
        let bad = |why: &str| RegistryError::refused(format!("reference {text:?}"), why);
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => {
                let digest = digest.parse().map_err(|e| bad(&format!("{e}")))?;
                (rest, Some(digest))
            }
            None => (text, None),
        };
        let (registry, path) = match rest.split_once('/') {
            Some((first, path)) if first.contains(['.', ':']) || first == "localhost" => (Some(first), path),
            _ => (None, rest),
        };
        let (path, tag) = match path.split_once(':') {
            Some((path, tag)) => (path, Some(tag)),
            None => (path, None),
        };
        if !is_repository(path) {
            return Err(bad("its name is not one of an image"));
        }
        if !tag.is_none_or(is_tag) {
            return Err(bad("its tag is not one"));
        }
        if digest.is_none() && tag.is_none() {
            return Err(bad("it has neither tag nor digest"));
        }
        Ok(Self {
            registry: registry.map(str::to_ascii_lowercase),
            path: path.to_owned(),
            tag: tag.map(str::to_owned),
            digest,
        })
    }

    /// What to ask for: the digest where there is one, as Docker does; the tag is then only for people.
    pub fn wanted(&self) -> String {
        match (&self.digest, &self.tag) {
            (Some(digest), _) => digest.to_string(),
            (None, tag) => tag.clone().unwrap_or_default(),
        }
    }

    /// The repository's name at `registry`; docker.io keeps names of one part under `library/`.
    pub fn repository(&self, registry: &str) -> String {
        if registry == super::endpoint::DOCKER_IO && !self.path.contains('/') {
            return format!("library/{}", self.path);
        }
        self.path.clone()
    }
}

/// Whether it can be a repository's name.
pub fn is_repository(name: &str) -> bool {
    name.len() <= MAX_NAME && name.split('/').all(is_part)
}

fn is_part(part: &str) -> bool {
    let word = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    part.starts_with(word)
        && part.ends_with(word)
        && part.chars().all(|c| word(c) || matches!(c, '.' | '_' | '-'))
}

fn is_tag(tag: &str) -> bool {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    tag.len() <= 128 && tag.starts_with(word) && tag.chars().all(|c| word(c) || matches!(c, '.' | '-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_a_reference() {
        let digest = format!("sha256:{}", "a".repeat(64));
        for (text, registry, repository, wanted) in [
            (
                "docker.io/library/nginx:1",
                Some("docker.io"),
                "library/nginx",
                "1",
            ),
            ("nginx:1", None, "library/nginx", "1"),
            ("localhost/x:latest", Some("localhost"), "x", "latest"),
            ("LOCALHOST:5000/x/y:1", Some("localhost:5000"), "x/y", "1"),
            ("[::1]:5000/x:1", Some("[::1]:5000"), "x", "1"),
            (&format!("r.io/x:1@{digest}"), Some("r.io"), "x", &*digest),
            (&format!("r.io/x@{digest}"), Some("r.io"), "x", &*digest),
        ] {
            let reference = Reference::parse(text).unwrap();
            assert_eq!(reference.registry.as_deref(), registry, "{text}");
            let at = reference.registry.clone().unwrap_or("docker.io".to_owned());
            assert_eq!(reference.repository(&at), repository, "{text}");
            assert_eq!(reference.wanted(), wanted, "{text}");
        }
    }

    #[test]
    fn what_would_leave_the_path_of_a_url_is_refused() {
        for text in [
            "r.io/../x:1",
            "r.io/a/../b:1",
            "r.io/x?y:1",
            "r.io/x:1?y",
            "r.io/x:a/b",
            "r.io/x#y:1",
            "r.io/x y:1",
            "r.io/x",
            "r.io//x:1",
            "r.io/x:1@sha256:..",
            "r.io/%2e:1",
            "r.io/x:1\r\nHost: y",
        ] {
            assert!(Reference::parse(text).is_err(), "{text:?}");
        }
    }
}
