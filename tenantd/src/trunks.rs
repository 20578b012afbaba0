//! The trunks of an instance: how they are said, and which number each has. A number is given once, with its name, and
//! kept in the store, because addresses are derived from it: the order in which trunks are said means nothing. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use stackmap::{Invalid, NicName, TrunkIndex};

use crate::config::parse_access;

/// The longest name that a device can have (`IFNAMSIZ` is 16 with the zero at the end).
const DEVICE_MAX: usize = 15;
/// How many trunks an instance can have: what a patch room has place for.
const MOST: u16 = vlan_rs::MAX_TRUNKS as u16;
/// Name of the trunk's end in the patch room when tenantd made it and its number is 0.
const FAR_END: &str = "trunk";

/// A trunk as it is said: `CARD`, `NAME=CARD` or `NAME=`, each with `,access=unix:///PATH` or without.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrunkOption {
    /// Its name.
    pub name: String,
    /// The network card that is the trunk; none: tenantd makes a pair.
    pub card: Option<String>,
    /// Path of its access server's socket.
    pub access: Option<PathBuf>,
}

impl FromStr for TrunkOption {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let refuse = |rule: String| Invalid::new("trunk", text, rule);
        let mut parts = text.split(',');
        let head = parts.next().unwrap_or_default();
        let (name, card) = match head.split_once('=') {
            Some((name, "")) => (name, None),
            Some((name, card)) => (name, Some(card)),
            None => (head, Some(head)),
        };
        for (what, device) in [Some(("name", name)), card.map(|card| ("card", card))].into_iter().flatten() {
            device.parse::<NicName>().map_err(|e| refuse(format!("its {what} {device:?} {}", e.rule)))?;
        }
        let mut access = None;
        for part in parts {
            let Some(url) = part.strip_prefix("access=").filter(|_| access.is_none()) else {
                return Err(refuse("must be CARD, NAME=CARD or NAME=, then at most one ,access=unix:///PATH".into()));
            };
            access = Some(parse_access(url).map_err(|e| refuse(format!("its access {:?} {}", e.value, e.rule)))?);
        }
        Ok(Self { name: name.to_owned(), card: card.map(str::to_owned), access: access.map(PathBuf::from) })
    }
}

/// Checks trunks against each other.
///
/// # Errors
/// [`Invalid`] (field `trunk`): a name or a card is given twice.
pub fn check(trunks: &[TrunkOption]) -> Result<(), Invalid> {
    let (mut names, mut cards, mut servers) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    for trunk in trunks {
        let twice = |what: &str| Err(Invalid::new("trunk", &trunk.name, format!("its {what} is given twice")));
        if !names.insert(&trunk.name) {
            return twice("name");
        }
        if trunk.card.as_ref().is_some_and(|card| !cards.insert(card)) {
            return twice("card");
        }
        if trunk.access.as_ref().is_some_and(|server| !servers.insert(server)) {
            return twice("access server");
        }
    }
    if trunks.len() > usize::from(MOST) {
        return Err(Invalid::new("trunk", trunks.len(), format!("at most {MOST} are possible")));
    }
    Ok(())
}

/// A trunk with its number and the names that follow from it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrunkSpec {
    /// Its number.
    pub number: TrunkIndex,
    /// Its name.
    pub name: String,
    /// The network card that is the trunk; none: tenantd makes a pair.
    pub card: Option<String>,
    /// The pair's end in our own network namespace, were we to make one.
    pub near: String,
    /// Path of its access server's socket.
    pub access: PathBuf,
}

impl TrunkSpec {
    /// Its device in the patch room.
    #[must_use]
    pub fn far(&self) -> String {
        match (&self.card, self.number.get()) {
            (Some(card), _) => card.clone(),
            (None, 0) => FAR_END.to_owned(),
            (None, number) => format!("{FAR_END}-{number}"),
        }
    }

    /// The device that somebody who looks for the trunk looks for.
    #[must_use]
    pub fn device(&self) -> &str {
        self.card.as_deref().unwrap_or(&self.near)
    }
}

/// Names of trunks by number, as the store keeps them.
pub type Known = BTreeMap<TrunkIndex, String>;

/// Gives every trunk its number: the one that it has in `known`, or the lowest that nobody has. When one is said and at
/// most one is known it is that one, whatever it is called: a card may be replaced by another one. Returns the trunks by
/// number, and what is to be known from now on.
///
/// # Errors
/// [`Invalid`]: the name of a device that would be made is too long, or two trunks would have one access server.
pub fn number(said: &[TrunkOption], known: &Known, instance: &str, first_access: &Path) -> Numbered {
    let mut after = known.clone();
    if let ([only], true) = (said, known.keys().all(|number| number.get() == 0)) {
        after.insert(TrunkIndex(0), only.name.clone());
    }
    for trunk in said {
        if !after.values().any(|name| *name == trunk.name) {
            let free = (0..=u16::MAX).map(TrunkIndex).find(|number| !after.contains_key(number)).unwrap_or_default();
            after.insert(free, trunk.name.clone());
        }
    }
    let mut specs = Vec::new();
    for (number, name) in &after {
        let Some(trunk) = said.iter().find(|trunk| trunk.name == *name) else { continue };
        let (near, access) = match number.get() {
            0 => (format!("trunk-{instance}"), first_access.to_owned()),
            n => (format!("trunk-{instance}-{n}"), format!("/run/access-server/{instance}-{n}/api.sock").into()),
        };
        if trunk.card.is_none() && near.len() > DEVICE_MAX {
            let rule = format!("trunk {name:?} needs a device named {near:?}, which is longer than {DEVICE_MAX} bytes");
            return Err(Invalid::new("instance", instance, rule));
        }
        let access = trunk.access.clone().unwrap_or(access);
        specs.push(TrunkSpec { number: *number, name: name.clone(), card: trunk.card.clone(), near, access });
    }
    for (at, spec) in specs.iter().enumerate() {
        if let Some(other) = specs[..at].iter().find(|other| other.access == spec.access) {
            let rule = format!("has the access server of trunk {:?} ({})", other.name, spec.access.display());
            return Err(Invalid::new("trunk", &spec.name, rule));
        }
    }
    Ok((specs, after))
}

/// What [`number`] gives.
pub type Numbered = Result<(Vec<TrunkSpec>, Known), Invalid>;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn said(words: &[&str]) -> Vec<TrunkOption> {
        words.iter().map(|word| word.parse().unwrap()).collect()
    }

    fn numbers(words: &[&str], known: &Known) -> (Vec<(u16, String)>, Known) {
        let (specs, after) = number(&said(words), known, "main", Path::new("/a")).unwrap();
        (specs.into_iter().map(|spec| (spec.number.get(), spec.name)).collect(), after)
    }

    #[test]
    fn words_are_read() {
        let one = |text: &str| text.parse::<TrunkOption>().unwrap();
        assert_eq!(one("eth1"), TrunkOption { name: "eth1".into(), card: Some("eth1".into()), access: None });
        assert_eq!(one("west=eth1"), TrunkOption { name: "west".into(), card: Some("eth1".into()), access: None });
        assert_eq!(
            one("west=,access=unix:///run/x.sock"),
            TrunkOption { name: "west".into(), card: None, access: Some("/run/x.sock".into()) }
        );
    }

    #[test]
    fn bad_words_are_refused_with_their_rule() {
        for bad in ["", "=", "=eth1", "a b", "west=a/b", "abcdefghijklmnop", "abcdefghijklmnop=", "x=abcdefghijklmnop"]
        {
            let refused = bad.parse::<TrunkOption>().unwrap_err();
            assert_eq!((refused.field.as_ref(), refused.value.as_str()), ("trunk", bad), "{refused}");
        }
        for bad in
            ["eth1,", "eth1,x=1", "a=,access=http://x", "a=,access=unix://x", "a,access=unix:///b,access=unix:///b"]
        {
            let refused = bad.parse::<TrunkOption>().unwrap_err();
            assert_eq!((refused.field.as_ref(), refused.value.as_str()), ("trunk", bad), "{refused}");
        }
        for twice in [["a=x", "a=y"], ["a=x", "b=x"], ["a=,access=unix:///s", "b=,access=unix:///s"]] {
            let refused = check(&said(&twice)).unwrap_err();
            assert!(refused.rule.contains("twice"), "{refused}");
        }
        check(&said(&["a=", "b=", "c=eth1"])).unwrap();
    }

    #[test]
    fn a_number_stays_with_its_name_whatever_the_order() {
        let (first, known) = numbers(&["a=", "b="], &Known::new());
        assert_eq!(first, [(0, "a".into()), (1, "b".into())]);
        assert_eq!(numbers(&["b=", "a="], &known).0, first);
        let (left, after) = numbers(&["c=", "b="], &known);
        assert_eq!(left, [(1, "b".into()), (2, "c".into())]);
        assert_eq!(numbers(&["a=", "c="], &after).0, [(0, "a".into()), (2, "c".into())]);
        assert_eq!(numbers(&["b="], &known).0, [(1, "b".into())], "not the first, although it is alone");
    }

    #[test]
    fn the_only_trunk_may_be_called_otherwise() {
        let (_, known) = numbers(&["eth1"], &Known::new());
        let (one, after) = numbers(&["eth2"], &known);
        assert_eq!((one, after.len()), (vec![(0, "eth2".into())], 1));
    }

    #[test]
    fn names_follow_from_the_number() {
        let (specs, _) = number(&said(&["a=", "b=", "c=eth1"]), &Known::new(), "main", Path::new("/a")).unwrap();
        let names: Vec<_> = specs.iter().map(|s| (s.device().to_owned(), s.far())).collect();
        let pair = |near: &str, far: &str| (near.to_owned(), far.to_owned());
        assert_eq!(names, [pair("trunk-main", "trunk"), pair("trunk-main-1", "trunk-1"), pair("eth1", "eth1")]);
        assert_eq!(specs[1].access, Path::new("/run/access-server/main-1/api.sock"));
        let long = number(&said(&["a=", "b="]), &Known::new(), "abcdefgh", Path::new("/a")).unwrap_err();
        assert!(long.field == "instance" && long.rule.contains("trunk-abcdefgh-1"), "{long}");
        let same = number(
            &said(&["a=,access=unix:///run/access-server/main-1/api.sock", "b="]),
            &Known::new(),
            "main",
            Path::new("/a"),
        );
        assert_eq!(same.unwrap_err().field, "trunk");
    }
}
