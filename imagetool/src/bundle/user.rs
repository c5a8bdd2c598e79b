//! Who a container runs as: `-u` or USER, resolved against the texts of the container's own passwd and group files
//! (pure: the files are read elsewhere, confined to the container's root).
//!
//! `USER` is `NAME|UID [ ":" GROUP|GID ]`. A name is looked up first, even when it is made of digits (Docker does so);
//! without a group, the user's own one and the groups that list the user apply; with one, that group alone.

use super::error::BundleError;

/// Highest id that Docker and the kernel's file systems take.
const ID_MAX: u32 = i32::MAX as u32;

/// A user as the kernel needs it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// All supplementary groups, the main one included.
    pub additional_gids: Vec<u32>,
    /// The home directory, `/` for an unknown user.
    pub home: String,
}

/// An entry of a passwd file.
struct Account<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

/// An entry of a group file.
struct Group<'a> {
    name: &'a str,
    gid: u32,
    members: &'a str,
}

/// Resolves `spec` (empty: root). Lines that are no entries are passed over, as the C library does.
pub fn resolve(spec: &str, passwd: &[u8], group: &[u8]) -> Result<Identity, BundleError> {
    let passwd = String::from_utf8_lossy(passwd);
    let group = String::from_utf8_lossy(group);
    let (user, wanted_group) = spec.split_once(':').unwrap_or((spec, ""));
    let user = if user.is_empty() { "0" } else { user };
    let account = find_account(user, &passwd);
    let (uid, gid, home, name) = match &account {
        Some(account) => (account.uid, account.gid, account.home, account.name),
        None => (
            number(user)?.ok_or_else(|| BundleError::NoSuchUser(user.to_owned()))?,
            0,
            "/",
            "",
        ),
    };
    let home = if home.is_empty() { "/" } else { home }.to_owned();
    if !wanted_group.is_empty() {
        let gid = find_group(wanted_group, &group)?;
        return Ok(Identity {
            uid,
            gid,
            additional_gids: vec![gid],
            home,
        });
    }
    let mut additional_gids = vec![gid];
    for entry in group.lines().filter_map(parse_group) {
        let listed = !name.is_empty() && entry.members.split(',').any(|member| member.trim() == name);
        if listed && !additional_gids.contains(&entry.gid) {
            additional_gids.push(entry.gid);
        }
    }
    Ok(Identity {
        uid,
        gid,
        additional_gids,
        home,
    })
}

/// The account of this name, else of this number.
fn find_account<'a>(user: &str, passwd: &'a str) -> Option<Account<'a>> {
    let by_name = passwd
        .lines()
        .filter_map(parse_account)
        .find(|account| account.name == user);
    by_name.or_else(|| {
        let uid: u32 = user.parse().ok()?;
        passwd
            .lines()
            .filter_map(parse_account)
            .find(|account| account.uid == uid)
    })
}

/// The number of the group of this name, else the number itself.
fn find_group(wanted: &str, group: &str) -> Result<u32, BundleError> {
    if let Some(entry) = group
        .lines()
        .filter_map(parse_group)
        .find(|entry| entry.name == wanted)
    {
        return Ok(entry.gid);
    }
    number(wanted)?.ok_or_else(|| BundleError::NoSuchGroup(wanted.to_owned()))
}

/// An id, `None` when the text is no number.
fn number(text: &str) -> Result<Option<u32>, BundleError> {
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Ok(None);
    }
    match text.parse::<u32>() {
        Ok(id) if id <= ID_MAX => Ok(Some(id)),
        _ => Err(BundleError::IdOutOfRange(text.to_owned())),
    }
}

fn parse_account(line: &str) -> Option<Account<'_>> {
    let mut fields = line.trim_end_matches('\r').split(':');
    let name = fields
        .next()
        .filter(|name| !name.is_empty() && !name.starts_with('#'))?;
    let uid = fields.nth(1)?.parse().ok().filter(|uid| *uid <= ID_MAX)?;
    let gid = fields.next()?.parse().ok().filter(|gid| *gid <= ID_MAX)?;
    Some(Account {
        name,
        uid,
        gid,
        home: fields.nth(1).unwrap_or(""),
    })
}

fn parse_group(line: &str) -> Option<Group<'_>> {
    let mut fields = line.trim_end_matches('\r').split(':');
    let name = fields
        .next()
        .filter(|name| !name.is_empty() && !name.starts_with('#'))?;
    let gid = fields.nth(1)?.parse().ok().filter(|gid| *gid <= ID_MAX)?;
    Some(Group {
        name,
        gid,
        members: fields.next().unwrap_or(""),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &[u8] = b"# comment\nroot:x:0:0:root:/root:/bin/sh\nbroken\n:x:1:1::/:\nann:x:1000:100:Ann:/home/ann:/bin/sh\r\n\
        1000:x:7:7::/seven:\nhuge:x:4294967295:0::/:\nbare:x:9:9\n\xff\xfe:x:5:5::/:\n";
    const GROUP: &[u8] =
        b"root:x:0:\nusers:x:100:\naudio:x:29:ann,bob\ndisk:x:6:root,ann\nbad:x:y:ann\nann2:x:30:anne\n";

    #[test]
    fn users_resolve_as_in_docker() {
        // spec, uid, gid, groups, home
        let table: [(&str, u32, u32, &[u32], &str); 9] = [
            ("", 0, 0, &[0, 6], "/root"),
            ("root", 0, 0, &[0, 6], "/root"),
            ("0", 0, 0, &[0, 6], "/root"),
            ("ann", 1000, 100, &[100, 29, 6], "/home/ann"),
            // Digits that are a name are the name.
            ("1000", 7, 7, &[7], "/seven"),
            ("ann:audio", 1000, 29, &[29], "/home/ann"),
            ("4242", 4242, 0, &[0], "/"),
            ("4242:777", 4242, 777, &[777], "/"),
            ("bare", 9, 9, &[9], "/"),
        ];
        for (spec, uid, gid, groups, home) in table {
            let expected = Identity {
                uid,
                gid,
                additional_gids: groups.to_vec(),
                home: home.to_owned(),
            };
            assert_eq!(resolve(spec, PASSWD, GROUP), Ok(expected), "{spec:?}");
        }
    }

    #[test]
    fn unknown_users_and_wild_numbers_are_refused() {
        let table = [
            ("nobody", "unable to find user nobody"),
            ("huge", "unable to find user huge"),
            ("ann:nope", "unable to find group nope"),
            ("2147483648", "in range"),
            ("-1", "in range"),
            ("0:4294967296", "in range"),
            ("-", "unable to find user -"),
        ];
        for (spec, part) in table {
            let error = resolve(spec, PASSWD, GROUP).unwrap_err().to_string();
            assert!(error.contains(part), "{spec}: {error}");
        }
    }

    #[test]
    fn without_files_numbers_still_work() {
        let root = Identity {
            uid: 0,
            gid: 0,
            additional_gids: vec![0],
            home: "/".to_owned(),
        };
        assert_eq!(resolve("", b"", b""), Ok(root));
    }
}
