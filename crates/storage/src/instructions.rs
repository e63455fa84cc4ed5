//! Changes of an image's config as Dockerfile instructions say them: what `--change` of commit and import takes
//! (Dockerfile reference; OCI image-spec, config.md).

use serde_json::{Map, Value, json};

/// Why an instruction is not carried out. The text is for users.
#[derive(Debug, thiserror::Error)]
#[error("change {instruction:?}: {why}")]
pub struct InstructionError {
    pub instruction: String,
    pub why: String,
}

type Result<T> = std::result::Result<T, String>;

/// The instructions there are.
const KNOWN: &str = "CMD, ENTRYPOINT, ENV, EXPOSE, LABEL, ONBUILD, STOPSIGNAL, USER, VOLUME and WORKDIR";

/// Carries an instruction out on the `config` object of an image's config document.
pub fn change(
    config: &mut Map<String, Value>,
    instruction: &str,
) -> std::result::Result<(), InstructionError> {
    let text = instruction.trim();
    let (word, rest) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
    let changed = one(config, &word.to_ascii_uppercase(), rest.trim());
    changed.map_err(|why| InstructionError {
        instruction: instruction.to_owned(),
        why,
    })
}

fn one(config: &mut Map<String, Value>, word: &str, rest: &str) -> Result<()> {
    if rest.is_empty() && !matches!(word, "CMD" | "ENTRYPOINT") {
        return Err(match word {
            "ENV" | "EXPOSE" | "LABEL" | "ONBUILD" | "STOPSIGNAL" | "USER" | "VOLUME" | "WORKDIR" => {
                format!("{word} needs an argument")
            }
            _ => format!("this is none of {KNOWN}"),
        });
    }
    match word {
        "CMD" => set(config, "Cmd", json!(command(rest)?)),
        "ENTRYPOINT" => {
            set(config, "Entrypoint", json!(command(rest)?));
            // A command for another entrypoint is none for this one (Dockerfile reference, ENTRYPOINT).
            config.remove("Cmd");
        }
        "ENV" => pairs(rest)?
            .iter()
            .for_each(|(key, value)| env(config, key, value)),
        "LABEL" => {
            for (key, value) in pairs(rest)? {
                object(config, "Labels").insert(key, json!(value));
            }
        }
        "EXPOSE" => {
            for port in rest.split_whitespace() {
                for port in ports(port)? {
                    object(config, "ExposedPorts").insert(port, json!({}));
                }
            }
        }
        "VOLUME" => {
            for place in volumes(rest)? {
                object(config, "Volumes").insert(place, json!({}));
            }
        }
        "ONBUILD" => {
            let first = rest.split_whitespace().next().unwrap_or_default();
            if matches!(
                first.to_ascii_uppercase().as_str(),
                "ONBUILD" | "FROM" | "MAINTAINER"
            ) {
                return Err(format!("{first} cannot be triggered by ONBUILD"));
            }
            array(config, "OnBuild").push(json!(rest));
        }
        "USER" => set(config, "User", json!(rest)),
        "STOPSIGNAL" => set(config, "StopSignal", json!(rest)),
        "WORKDIR" => {
            let before = config
                .get("WorkingDir")
                .and_then(Value::as_str)
                .unwrap_or_default();
            let dir = match rest.starts_with('/') {
                true => rest.to_owned(),
                false => format!("/{}/{rest}", before.trim_matches('/')),
            };
            set(config, "WorkingDir", json!(dir.replace("//", "/")));
        }
        _ => return Err(format!("this is none of {KNOWN}")),
    }
    Ok(())
}

fn set(config: &mut Map<String, Value>, key: &str, value: Value) {
    config.insert(key.to_owned(), value);
}

fn object<'a>(config: &'a mut Map<String, Value>, key: &str) -> &'a mut Map<String, Value> {
    let entry = config.entry(key).or_insert(Value::Null);
    if !entry.is_object() {
        *entry = Value::Object(Map::new());
    }
    entry.as_object_mut().expect("it was made one just now")
}

fn array<'a>(config: &'a mut Map<String, Value>, key: &str) -> &'a mut Vec<Value> {
    let entry = config.entry(key).or_insert(Value::Null);
    if !entry.is_array() {
        *entry = Value::Array(Vec::new());
    }
    entry.as_array_mut().expect("it was made one just now")
}

/// A variable in the place of the one of the same name.
pub fn env(config: &mut Map<String, Value>, key: &str, value: &str) {
    let of_key = |entry: &Value| {
        entry
            .as_str()
            .and_then(|e| e.split_once('='))
            .is_some_and(|(k, _)| k == key)
    };
    let line = json!(format!("{key}={value}"));
    let all = array(config, "Env");
    match all.iter_mut().find(|entry| of_key(entry)) {
        Some(entry) => *entry = line,
        None => all.push(line),
    }
}

/// JSON as in `["a", "b"]`; anything else is a line for the shell.
fn command(text: &str) -> Result<Vec<String>> {
    match words(text) {
        Some(words) => Ok(words),
        None if text.is_empty() => Ok(Vec::new()),
        None => Ok(vec!["/bin/sh".to_owned(), "-c".to_owned(), text.to_owned()]),
    }
}

fn words(text: &str) -> Option<Vec<String>> {
    if !text.starts_with('[') {
        return None;
    }
    serde_json::from_str(text).ok()
}

/// `KEY=VALUE…` with a shell's quotes, or the old `KEY VALUE` for one of them.
fn pairs(text: &str) -> Result<Vec<(String, String)>> {
    let first = text.split_whitespace().next().unwrap_or_default();
    if !first.contains('=') {
        let (key, value) = text
            .split_once(char::is_whitespace)
            .ok_or("write NAME=VALUE".to_owned())?;
        return Ok(vec![(key.to_owned(), value.trim().to_owned())]);
    }
    let split = unquoted(text)?;
    let pair = |word: &String| match word.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err(format!("{word:?} is not NAME=VALUE")),
    };
    split.iter().map(pair).collect()
}

/// Words by blanks, quotes and backslashes taken away as a shell does.
fn unquoted(text: &str) -> Result<Vec<String>> {
    let (mut all, mut word, mut inside, mut quote) = (Vec::new(), String::new(), false, None);
    let mut characters = text.chars();
    while let Some(c) = characters.next() {
        match (quote, c) {
            (None, '\'' | '"') => (quote, inside) = (Some(c), true),
            (Some(q), c) if c == q => quote = None,
            (None | Some('"'), '\\') => {
                word.extend(characters.next());
                inside = true;
            }
            (None, c) if c.is_whitespace() => {
                if inside {
                    all.push(std::mem::take(&mut word));
                }
                inside = false;
            }
            (_, c) => {
                word.push(c);
                inside = true;
            }
        }
    }
    if quote.is_some() {
        return Err("a quote is not closed".to_owned());
    }
    if inside {
        all.push(word);
    }
    Ok(all)
}

/// `80`, `80/udp` or `8000-8010/tcp`.
fn ports(text: &str) -> Result<Vec<String>> {
    let bad = || format!("{text:?} is not a port such as 80, 53/udp or 8000-8010");
    let (range, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let protocol = protocol.to_ascii_lowercase();
    if !matches!(protocol.as_str(), "tcp" | "udp" | "sctp") {
        return Err(bad());
    }
    let (first, last) = range.split_once('-').unwrap_or((range, range));
    let port = |text: &str| text.parse::<u16>().ok().filter(|port| *port > 0).ok_or_else(bad);
    let (first, last) = (port(first)?, port(last)?);
    if last < first {
        return Err(bad());
    }
    Ok((first..=last).map(|port| format!("{port}/{protocol}")).collect())
}

fn volumes(text: &str) -> Result<Vec<String>> {
    let all = words(text).unwrap_or_else(|| text.split_whitespace().map(str::to_owned).collect());
    match all.iter().find(|place| !place.starts_with('/')) {
        Some(bad) => Err(format!("{bad:?} is no absolute path")),
        None => Ok(all),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(changes: &[&str]) -> Value {
        let mut config = json!({ "Env": ["PATH=/bin", "A=old"], "Cmd": ["x"], "WorkingDir": "/srv" });
        for text in changes {
            change(config.as_object_mut().unwrap(), text).unwrap();
        }
        config
    }

    #[test]
    fn each_does_what_the_reference_says() {
        assert_eq!(after(&["CMD [\"a\", \"b c\"]"])["Cmd"], json!(["a", "b c"]));
        assert_eq!(
            after(&["cmd echo $A"])["Cmd"],
            json!(["/bin/sh", "-c", "echo $A"])
        );
        let entry = after(&["ENTRYPOINT [\"/e\"]"]);
        assert_eq!(
            (&entry["Entrypoint"], &entry["Cmd"]),
            (&json!(["/e"]), &Value::Null)
        );
        let env = after(&["ENV A=\"new one\" B='x y' C=a\\ b", "ENV D old form"]);
        let wanted = json!(["PATH=/bin", "A=new one", "B=x y", "C=a b", "D=old form"]);
        assert_eq!(env["Env"], wanted);
        let exposed = after(&["EXPOSE 80 53/udp 7000-7001"]);
        let wanted = json!({ "80/tcp": {}, "53/udp": {}, "7000/tcp": {}, "7001/tcp": {} });
        assert_eq!(exposed["ExposedPorts"], wanted);
        assert_eq!(
            after(&["LABEL a=1 b=\"2 3\""])["Labels"],
            json!({ "a": "1", "b": "2 3" })
        );
        assert_eq!(after(&["ONBUILD RUN make"])["OnBuild"], json!(["RUN make"]));
        assert_eq!(after(&["USER app:app"])["User"], "app:app");
        assert_eq!(
            after(&["VOLUME /a /b", "VOLUME [\"/c d\"]"])["Volumes"],
            json!({ "/a": {}, "/b": {}, "/c d": {} })
        );
        assert_eq!(
            after(&["WORKDIR www", "WORKDIR html"])["WorkingDir"],
            "/srv/www/html"
        );
        assert_eq!(after(&["STOPSIGNAL SIGINT"])["StopSignal"], "SIGINT");
    }

    #[test]
    fn what_is_none_is_refused_with_its_reason() {
        for (text, why) in [
            ("RUN make", "none of"),
            ("", "none of"),
            ("ENV", "needs an argument"),
            ("ENV A", "NAME=VALUE"),
            ("LABEL a=\"1", "quote"),
            ("EXPOSE 0", "is not a port"),
            ("EXPOSE 80/icmp", "is not a port"),
            ("EXPOSE 90-80", "is not a port"),
            ("VOLUME data", "absolute"),
            ("ONBUILD FROM x", "cannot be triggered"),
        ] {
            let error = change(&mut Map::new(), text).unwrap_err().to_string();
            assert!(error.contains(why), "{text}: {error}");
        }
    }
}
