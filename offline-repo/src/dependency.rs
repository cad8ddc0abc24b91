//! Relations between packages: the grammar of Depends, Provides, Conflicts and their kin (deb-control(5)).

use std::cmp::Ordering;
use std::fmt;

use crate::version;

/// How a version is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Operator {
    /// `<<`
    Less,
    /// `<=`
    LessOrEqual,
    /// `=`
    Equal,
    /// `>=`
    GreaterOrEqual,
    /// `>>`
    Greater,
}

impl Operator {
    /// Whether `found OPERATOR wanted` holds.
    pub fn holds(self, found: &str, wanted: &str) -> bool {
        let order = version::compare(found, wanted);
        match self {
            Operator::Less => order == Ordering::Less,
            Operator::LessOrEqual => order != Ordering::Greater,
            Operator::Equal => order == Ordering::Equal,
            Operator::GreaterOrEqual => order != Ordering::Less,
            Operator::Greater => order == Ordering::Greater,
        }
    }

    fn symbol(self) -> &'static str {
        match self {
            Operator::Less => "<<",
            Operator::LessOrEqual => "<=",
            Operator::Equal => "=",
            Operator::GreaterOrEqual => ">=",
            Operator::Greater => ">>",
        }
    }

    /// `<` and `>` are the deprecated spellings of `<=` and `>=`.
    fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "<<" => Operator::Less,
            "<=" | "<" => Operator::LessOrEqual,
            "=" => Operator::Equal,
            ">=" | ">" => Operator::GreaterOrEqual,
            ">>" => Operator::Greater,
            _ => return None,
        })
    }
}

/// One package name with its conditions, for example `python3:any (>= 3.13~)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Relation<'a> {
    /// Package name.
    pub name: &'a str,
    /// Architecture qualifier: `any`, `native` or an architecture.
    pub qualifier: Option<&'a str>,
    /// Condition on the version.
    pub version: Option<(Operator, &'a str)>,
}

impl Relation<'_> {
    /// Whether a package with this version satisfies the condition on the version.
    pub fn accepts(&self, found: &str) -> bool {
        self.version
            .is_none_or(|(operator, wanted)| operator.holds(found, wanted))
    }

    /// Whether something provided satisfies it: without a version it never satisfies a condition (policy 7.5).
    pub fn accepts_provided(&self, found: Option<&str>) -> bool {
        match (self.version, found) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some((operator, wanted)), Some(found)) => operator.holds(found, wanted),
        }
    }
}

impl fmt::Display for Relation<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)?;
        if let Some(qualifier) = self.qualifier {
            write!(f, ":{qualifier}")?;
        }
        if let Some((operator, version)) = self.version {
            write!(f, " ({} {version})", operator.symbol())?;
        }
        Ok(())
    }
}

/// Alternatives, best first: `a | b`.
pub type Alternatives<'a> = Vec<Relation<'a>>;

/// Reads a whole field: groups separated by commas, alternatives by `|`.
pub fn parse(field: &str) -> Result<Vec<Alternatives<'_>>, String> {
    field
        .split(',')
        .map(str::trim)
        .filter(|group| !group.is_empty())
        .map(parse_alternatives)
        .collect()
}

/// Reads `a | b (>= 1)`.
pub fn parse_alternatives(group: &str) -> Result<Alternatives<'_>, String> {
    group.split('|').map(parse_relation).collect()
}

/// Reads what users write: a relation, alternatives, or apt's `name=version`.
pub fn parse_request(text: &str) -> Result<Alternatives<'_>, String> {
    match text.trim().split_once('=') {
        Some((name, wanted)) if !name.contains(['(', '|']) => {
            let mut relation = parse_relation(name)?;
            if !version::is_valid(wanted) {
                return Err(format!("'{}' is not a version", wanted.escape_debug()));
            }
            relation.version = Some((Operator::Equal, wanted));
            Ok(vec![relation])
        }
        _ => parse_alternatives(text),
    }
}

fn parse_relation(text: &str) -> Result<Relation<'_>, String> {
    let text = text.trim();
    let (head, version) = match text.split_once('(') {
        Some((head, rest)) => {
            let inner = rest
                .strip_suffix(')')
                .ok_or_else(|| format!("'{}' does not end with ')'", text.escape_debug()))?;
            (head.trim_end(), Some(parse_condition(inner)?))
        }
        None => (text, None),
    };
    let (name, qualifier) = match head.split_once(':') {
        Some((name, qualifier)) => (name, Some(qualifier)),
        None => (head, None),
    };
    if !is_package_name(name) {
        return Err(format!("'{}' is not a package name", name.escape_debug()));
    }
    if let Some(q) = qualifier.filter(|q| !is_architecture(q)) {
        return Err(format!("'{}' is not an architecture", q.escape_debug()));
    }
    Ok(Relation {
        name,
        qualifier,
        version,
    })
}

fn parse_condition(inner: &str) -> Result<(Operator, &str), String> {
    let inner = inner.trim();
    let split = inner.find(|c| !"<>=".contains(c)).unwrap_or(inner.len());
    let operator = Operator::parse(&inner[..split])
        .ok_or_else(|| format!("'{}' is not a comparison", inner.escape_debug()))?;
    let wanted = inner[split..].trim();
    match version::is_valid(wanted) {
        true => Ok((operator, wanted)),
        false => Err(format!("'{}' is not a version", wanted.escape_debug())),
    }
}

/// Policy 5.6.1, and upper case as well, since some vendors use it.
pub fn is_package_name(name: &str) -> bool {
    (2..=200).contains(&name.len())
        && name.as_bytes()[0].is_ascii_alphanumeric()
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"+-._".contains(&b))
}

/// Lower-case letters, digits and dashes.
pub fn is_architecture(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= 64
        && name
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_parse_and_print() {
        for (field, printed) in [
            ("libc6 (>= 2.38)", "libc6 (>= 2.38)"),
            ("aa, bb | cc(<<1),dd:any", "aa, bb | cc (<< 1), dd:any"),
            ("python3:any (>=3.13~),", "python3:any (>= 3.13~)"),
            ("xx ( = 1:2-3 )", "xx (= 1:2-3)"),
            ("x1 (> 1)", "x1 (>= 1)"),
            ("", ""),
        ] {
            let groups = parse(field).unwrap();
            let words = groups.iter().map(|group| {
                let names = group.iter().map(ToString::to_string).collect::<Vec<_>>();
                names.join(" | ")
            });
            assert_eq!(words.collect::<Vec<_>>().join(", "), printed, "{field}");
        }
    }

    #[test]
    fn mistakes_are_named() {
        for (field, message) in [
            ("foo (>= 1", "'foo (>= 1' does not end with ')'"),
            ("foo (1)", "'1' is not a comparison"),
            ("foo (>= )", "'' is not a version"),
            ("foo bar", "'foo bar' is not a package name"),
            ("foo | ", "'' is not a package name"),
            ("foo:AMD", "'AMD' is not an architecture"),
            ("../foo", "'../foo' is not a package name"),
        ] {
            assert_eq!(parse(field).unwrap_err(), message, "{field}");
        }
    }

    #[test]
    fn requests() {
        let exact = parse_request("etcd-server=3.5.16-4+b4").unwrap();
        assert_eq!(exact[0].version, Some((Operator::Equal, "3.5.16-4+b4")));
        assert_eq!(parse_request("aa (= 1) | bb").unwrap().len(), 2);
        assert!(parse_request("aa=../..").is_err());
    }

    #[test]
    fn provided_versions() {
        let relation = |text| parse_alternatives(text).unwrap()[0];
        for (text, provided, expected) in [
            ("awk", None, true),
            ("awk", Some("1"), true),
            ("awk (>= 1)", None, false),
            ("awk (>= 1)", Some("2"), true),
            ("awk (<< 1)", Some("2"), false),
        ] {
            assert_eq!(
                relation(text).accepts_provided(provided),
                expected,
                "{text} {provided:?}"
            );
        }
    }

    proptest::proptest! {
        #[test]
        fn any_field_is_read_without_panic(field in "[a-c0-2 ,|():<>=.~+\u{e9}-]{0,40}") {
            for relation in parse(&field).into_iter().flatten().flatten() {
                let printed = relation.to_string();
                proptest::prop_assert_eq!(parse_alternatives(&printed).unwrap()[0], relation);
            }
            let _ = parse_request(&field);
        }
    }
}
