//! `--ulimit NAME=SOFT[:HARD]` (pure).

use oci_spec::runtime::PosixRlimitType;

use super::error::BundleError;

/// One resource limit. `u64::MAX` is "unlimited".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ulimit {
    /// Which resource.
    pub resource: PosixRlimitType,
    /// What applies.
    pub soft: u64,
    /// How far a process may raise it.
    pub hard: u64,
}

/// Parses one limit.
pub fn parse(spec: &str) -> Result<Ulimit, BundleError> {
    let wrong = |reason: &str| BundleError::Ulimit {
        spec: spec.to_owned(),
        reason: reason.to_owned(),
    };
    let (name, limits) = spec
        .split_once('=')
        .ok_or_else(|| wrong("use NAME=SOFT[:HARD]"))?;
    let resource = resource(name).ok_or_else(|| wrong(&format!("unknown limit {name:?}")))?;
    let (soft, hard) = limits.split_once(':').unwrap_or((limits, limits));
    let value = |text: &str| match text {
        "-1" | "unlimited" => Ok(u64::MAX),
        text => text
            .parse::<u64>()
            .map_err(|_| wrong(&format!("{text:?} is no number"))),
    };
    let (soft, hard) = (value(soft)?, value(hard)?);
    if soft > hard {
        return Err(wrong("the soft limit must not be above the hard limit"));
    }
    Ok(Ulimit { resource, soft, hard })
}

/// Lowers a limit to what the caller may set; `None` when it can stay as it is.
pub fn clamp(wanted: Ulimit, own_hard: u64, may_raise: bool) -> Option<Ulimit> {
    if may_raise || wanted.hard <= own_hard {
        return None;
    }
    Some(Ulimit {
        soft: wanted.soft.min(own_hard),
        hard: own_hard,
        ..wanted
    })
}

fn resource(name: &str) -> Option<PosixRlimitType> {
    Some(match name {
        "as" => PosixRlimitType::RlimitAs,
        "core" => PosixRlimitType::RlimitCore,
        "cpu" => PosixRlimitType::RlimitCpu,
        "data" => PosixRlimitType::RlimitData,
        "fsize" => PosixRlimitType::RlimitFsize,
        "locks" => PosixRlimitType::RlimitLocks,
        "memlock" => PosixRlimitType::RlimitMemlock,
        "msgqueue" => PosixRlimitType::RlimitMsgqueue,
        "nice" => PosixRlimitType::RlimitNice,
        "nofile" => PosixRlimitType::RlimitNofile,
        "nproc" => PosixRlimitType::RlimitNproc,
        "rss" => PosixRlimitType::RlimitRss,
        "rtprio" => PosixRlimitType::RlimitRtprio,
        "rttime" => PosixRlimitType::RlimitRttime,
        "sigpending" => PosixRlimitType::RlimitSigpending,
        "stack" => PosixRlimitType::RlimitStack,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_parsed() {
        let table = [
            ("nofile=1024", Some((1024, 1024))),
            ("nofile=1024:2048", Some((1024, 2048))),
            ("core=-1", Some((u64::MAX, u64::MAX))),
            ("core=0:unlimited", Some((0, u64::MAX))),
            ("nofile=2:1", None),
            ("nofile=-1:5", None),
            ("nofile", None),
            ("nofile=", None),
            ("nofile=1:2:3", None),
            ("NOFILE=1", None),
            ("wings=1", None),
        ];
        for (spec, expected) in table {
            assert_eq!(
                parse(spec).ok().map(|limit| (limit.soft, limit.hard)),
                expected,
                "{spec}"
            );
        }
    }

    #[test]
    fn a_limit_that_may_not_be_raised_is_lowered() {
        let wanted = parse("nofile=100:200").unwrap();
        assert_eq!(clamp(wanted, 50, true), None);
        assert_eq!(clamp(wanted, 200, false), None);
        assert_eq!(
            clamp(wanted, 150, false).map(|limit| (limit.soft, limit.hard)),
            Some((100, 150))
        );
        assert_eq!(
            clamp(wanted, 50, false).map(|limit| (limit.soft, limit.hard)),
            Some((50, 50))
        );
    }
}
