//! Users and groups by the image's own files (passwd(5), group(5)), by Docker's rules for `user` and `group_add`.

use crate::bundle::ResolvedUser;

/// The texts of the two files.
pub struct UserFiles {
    pub passwd: String,
    pub group: String,
}

struct Account<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

impl UserFiles {
    fn accounts(&self) -> impl Iterator<Item = Account<'_>> {
        self.passwd.lines().filter_map(|line| {
            let field: Vec<&str> = line.split(':').collect();
            Some(Account {
                name: field.first()?,
                uid: field.get(2)?.parse().ok()?,
                gid: field.get(3)?.parse().ok()?,
                home: field.get(5)?,
            })
        })
    }

    /// Name, number, members.
    fn groups(&self) -> impl Iterator<Item = (&str, u32, Vec<&str>)> {
        self.group.lines().filter_map(|line| {
            let field: Vec<&str> = line.split(':').collect();
            let members = field.get(3).copied().unwrap_or_default();
            Some((
                *field.first()?,
                field.get(2)?.parse().ok()?,
                members.split(',').collect(),
            ))
        })
    }

    fn group(&self, text: &str) -> Result<u32, String> {
        let named = self.groups().find(|(name, ..)| *name == text).map(|g| g.1);
        named.or_else(|| text.parse().ok()).ok_or_else(|| {
            format!("there is no group {text:?} in the image's /etc/group: use a name it has, or a number")
        })
    }
}

/// Resolves `NAME`, `UID`, `USER:GROUP`; nothing is root. A number needs no account, a name does. With a group written
/// out the account's other groups do not apply; `groups` are added in any case.
pub fn resolve(user: &str, groups: &[String], files: &UserFiles) -> Result<ResolvedUser, String> {
    let (who, group) = match user.split_once(':') {
        Some((who, group)) => (who, Some(group).filter(|g| !g.is_empty())),
        None => (user, None),
    };
    let who = if who.is_empty() { "0" } else { who };
    let number: Option<u32> = who.parse().ok();
    let account = files
        .accounts()
        .find(|a| a.name == who)
        .or_else(|| files.accounts().find(|a| Some(a.uid) == number));
    let (uid, mut gid, home) = match (&account, number) {
        (Some(account), _) => (account.uid, account.gid, account.home),
        (None, Some(uid)) => (uid, 0, "/"),
        (None, None) => {
            return Err(format!(
                "there is no user {who:?} in the image's /etc/passwd: use a name it has, or a number"
            ));
        }
    };
    let mut additional: Vec<u32> = Vec::new();
    match (group, &account) {
        (Some(group), _) => gid = files.group(group)?,
        (None, Some(account)) => {
            let member = files
                .groups()
                .filter(|(_, _, members)| members.contains(&account.name));
            additional.extend(member.map(|g| g.1));
        }
        (None, None) => {}
    }
    for group in groups {
        additional.push(files.group(group)?);
    }
    additional.retain(|g| *g != gid);
    additional.sort_unstable();
    additional.dedup();
    Ok(ResolvedUser {
        uid,
        gid,
        additional_gids: additional,
        home: if home.is_empty() { "/" } else { home }.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(user: &str, groups: &[&str]) -> Result<(u32, u32, Vec<u32>, String), String> {
        let files = UserFiles {
            passwd: "root:x:0:0:root:/root:/bin/sh\nbroken\nwww:x:33:34::/var/www:\n7up:x:70:70::/seven:\n"
                .into(),
            group: "root:x:0:\nwww:x:34:\nvideo:x:44:www,other\nlog:x:4:www\n".into(),
        };
        let groups: Vec<String> = groups.iter().map(|&g| g.to_owned()).collect();
        resolve(user, &groups, &files).map(|u| (u.uid, u.gid, u.additional_gids, u.home))
    }

    #[test]
    fn users_are_found_by_name_number_and_pair() {
        let own = |uid, gid, groups: &[u32], home: &str| Ok((uid, gid, groups.to_vec(), home.to_owned()));
        assert_eq!(ask("", &[]), own(0, 0, &[], "/root"));
        assert_eq!(ask("www", &[]), own(33, 34, &[4, 44], "/var/www"));
        assert_eq!(ask("33", &[]), own(33, 34, &[4, 44], "/var/www"));
        assert_eq!(ask("www:video", &[]), own(33, 44, &[], "/var/www"));
        assert_eq!(ask("1000", &[]), own(1000, 0, &[], "/"));
        assert_eq!(ask("1000:1001", &["video", "9"]), own(1000, 1001, &[9, 44], "/"));
        assert_eq!(ask("7up", &[]), own(70, 70, &[], "/seven"));
        assert_eq!(ask(":44", &[]), own(0, 44, &[], "/root"));
    }

    #[test]
    fn what_does_not_exist_is_named() {
        assert!(ask("nobody", &[]).unwrap_err().contains("no user \"nobody\""));
        assert!(ask("www:none", &[]).unwrap_err().contains("no group \"none\""));
        assert!(ask("www", &["none"]).unwrap_err().contains("no group \"none\""));
    }
}
