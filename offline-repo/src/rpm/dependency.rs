//! Relations between RPM packages: simple ones, and the rich ones in parentheses (rpm's docs/manual/boolean_dependencies.md).

use std::cmp::Ordering;

use super::evr::{self, Evr};

/// Which versions a relation accepts, relative to the one it states; none of the three: every version.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Comparison {
    /// Lower versions.
    pub less: bool,
    /// The same version.
    pub equal: bool,
    /// Higher versions.
    pub greater: bool,
}

impl Comparison {
    /// Any version.
    pub const ANY: Comparison = Comparison {
        less: false,
        equal: false,
        greater: false,
    };
    /// That version.
    pub const EQUAL: Comparison = Comparison {
        equal: true,
        ..Comparison::ANY
    };

    /// As `primary.xml` writes it: `EQ`, `LT`, `LE`, `GT`, `GE`.
    pub fn of_flags(flags: &str) -> Option<Self> {
        Self::parse(match flags {
            "EQ" => "=",
            "LT" => "<",
            "LE" => "<=",
            "GT" => ">",
            "GE" => ">=",
            _ => return None,
        })
    }

    /// As a spec file writes it.
    pub fn parse(sign: &str) -> Option<Self> {
        let known = ["=", "==", "<", "<=", "=<", ">", ">=", "=>"].contains(&sign);
        known.then(|| Comparison {
            less: sign.contains('<'),
            equal: sign.contains('='),
            greater: sign.contains('>'),
        })
    }

    /// Whether it accepts every version.
    pub fn is_any(self) -> bool {
        self == Comparison::ANY
    }

    fn text(self) -> &'static str {
        match (self.less, self.equal, self.greater) {
            (true, true, _) => "<=",
            (true, false, _) => "<",
            (_, true, true) => ">=",
            (_, false, true) => ">",
            (_, true, _) => "=",
            _ => "",
        }
    }
}

/// A name, and which versions of it. As a requirement it is what is wanted, as a provide what is offered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Relation<'a> {
    /// A package's name, a path, or any word that packages provide.
    pub name: &'a str,
    /// Which versions.
    pub comparison: Comparison,
    /// The version, empty without a comparison.
    pub evr: &'a str,
}

impl std::fmt::Display for Relation<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.comparison.is_any() {
            true => f.write_str(self.name),
            false => write!(f, "{} {} {}", self.name, self.comparison.text(), self.evr),
        }
    }
}

/// Whether two ranges of versions of the same name overlap (libsolv's `pool_intersect_evrs`). Without a version on
/// one side they always do. A version without a release stands for all of its releases.
pub fn overlap(a: (Comparison, &str), b: (Comparison, &str)) -> bool {
    let ((left, a), (right, b)) = (a, b);
    if left.is_any() || right.is_any() {
        return true;
    }
    if (left.less && right.less) || (left.greater && right.greater) {
        return true;
    }
    let (a, b) = (Evr::parse(a), Evr::parse(b));
    let stated = |evr: &Evr<'_>| evr.release.is_some_and(|release| !release.is_empty());
    let order = (a.epoch.cmp(&b.epoch)).then_with(|| evr::compare(a.version, b.version));
    match (order, stated(&a), stated(&b)) {
        (Ordering::Equal, false, true) => left.equal,
        (Ordering::Equal, true, false) => right.equal,
        (order, ..) => match order.then_with(|| a.compare(&b)) {
            Ordering::Less => right.less || left.greater,
            Ordering::Equal => left.equal && right.equal,
            Ordering::Greater => right.greater || left.less,
        },
    }
}

/// A rich dependency.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rich<'a> {
    /// One relation.
    Simple(Relation<'a>),
    /// All of them.
    And(Vec<Rich<'a>>),
    /// One of them.
    Or(Vec<Rich<'a>>),
    /// The first if the second is there, else the third if there is one.
    If(Box<[Rich<'a>; 2]>, Option<Box<Rich<'a>>>),
    /// The first if the second is not there, else the third if there is one.
    Unless(Box<[Rich<'a>; 2]>, Option<Box<Rich<'a>>>),
    /// One package that satisfies all of them.
    With(Vec<Rich<'a>>),
    /// One package that satisfies the first and not the second.
    Without(Box<[Rich<'a>; 2]>),
}

/// Deeper nesting is refused; rpm has no limit, but no package needs five levels.
const DEPTH_LIMIT: usize = 32;

/// Reads a relation: a rich one in parentheses, or a name alone or with a version.
pub fn parse(text: &str) -> Result<Rich<'_>, String> {
    let mut words = Words { rest: text };
    let whole = operand(&mut words, 0)?;
    match words.next() {
        None => Ok(whole),
        Some(word) => Err(format!(
            "'{}' does not belong there in '{}'",
            word.escape_debug(),
            text.escape_debug()
        )),
    }
}

/// Words of a relation: parentheses of its own, and all else up to a space. A name may hold parentheses, as
/// `perl(Foo)` does.
struct Words<'a> {
    rest: &'a str,
}

impl<'a> Words<'a> {
    fn next(&mut self) -> Option<&'a str> {
        let text = self.rest.trim_start();
        let first = text.chars().next()?;
        let mut depth = 0usize;
        let end = match first {
            '(' | ')' => 1,
            _ => {
                let ends = |c: char| match c {
                    '(' => {
                        depth += 1;
                        false
                    }
                    ')' if depth == 0 => true,
                    ')' => {
                        depth -= 1;
                        false
                    }
                    _ => c.is_whitespace() && depth == 0,
                };
                text.find(ends).unwrap_or(text.len())
            }
        };
        let (word, rest) = text.split_at(end);
        self.rest = rest;
        Some(word)
    }

    fn peek(&self) -> Option<&'a str> {
        Words { rest: self.rest }.next()
    }

    fn expect(&mut self, wanted: &str) -> Result<(), String> {
        match self.next() {
            Some(word) if word == wanted => Ok(()),
            found => Err(format!(
                "expected '{wanted}', found '{}'",
                found.unwrap_or("the end").escape_debug()
            )),
        }
    }
}

fn operand<'a>(words: &mut Words<'a>, depth: usize) -> Result<Rich<'a>, String> {
    if depth > DEPTH_LIMIT {
        return Err("is nested too deep".into());
    }
    match words.next() {
        Some("(") => {
            let inner = expression(words, depth + 1)?;
            words.expect(")")?;
            Ok(inner)
        }
        Some(")") | None => Err("a name is missing".into()),
        Some(name) => {
            let sign = words.peek().and_then(Comparison::parse);
            let Some(comparison) = sign else {
                return Ok(Rich::Simple(Relation {
                    name,
                    comparison: Comparison::ANY,
                    evr: "",
                }));
            };
            words.next();
            let evr = words.next().filter(|word| !["(", ")"].contains(word));
            let evr = evr.ok_or_else(|| format!("'{}' lacks a version", name.escape_debug()))?;
            Ok(Rich::Simple(Relation {
                name,
                comparison,
                evr,
            }))
        }
    }
}

/// What is between two parentheses: operands with one kind of operator between them.
fn expression<'a>(words: &mut Words<'a>, depth: usize) -> Result<Rich<'a>, String> {
    let first = operand(words, depth)?;
    let operator = match words.peek() {
        Some(")") | None => return Ok(first),
        Some(word) => word,
    };
    match operator {
        "and" | "or" | "with" => {
            let mut all = vec![first];
            while words.peek() == Some(operator) {
                words.next();
                all.push(operand(words, depth)?);
            }
            Ok(match operator {
                "and" => Rich::And(all),
                "or" => Rich::Or(all),
                _ => Rich::With(all),
            })
        }
        "if" | "unless" => {
            words.next();
            let pair = Box::new([first, operand(words, depth)?]);
            let otherwise = match words.peek() {
                Some("else") => {
                    words.next();
                    Some(Box::new(operand(words, depth)?))
                }
                _ => None,
            };
            Ok(match operator {
                "if" => Rich::If(pair, otherwise),
                _ => Rich::Unless(pair, otherwise),
            })
        }
        "without" => {
            words.next();
            Ok(Rich::Without(Box::new([first, operand(words, depth)?])))
        }
        other => Err(format!("'{}' is not an operator", other.escape_debug())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn simple(name: &str) -> Rich<'_> {
        Rich::Simple(Relation {
            name,
            comparison: Comparison::ANY,
            evr: "",
        })
    }

    #[test]
    fn rich_dependencies_parse() {
        assert_eq!(parse("perl(Foo::Bar)").unwrap(), simple("perl(Foo::Bar)"));
        assert_eq!(
            parse("(a or b or c(x))").unwrap(),
            Rich::Or(vec![simple("a"), simple("b"), simple("c(x)")])
        );
        let nested = parse("(a >= 1:2-3 if (b and c) else d)").unwrap();
        let a = Relation {
            name: "a",
            comparison: Comparison::parse(">=").unwrap(),
            evr: "1:2-3",
        };
        assert_eq!(a.to_string(), "a >= 1:2-3");
        let pair = Box::new([Rich::Simple(a), Rich::And(vec![simple("b"), simple("c")])]);
        assert_eq!(nested, Rich::If(pair, Some(Box::new(simple("d")))));
        assert!(matches!(parse("(a without b)").unwrap(), Rich::Without(_)));
        assert!(matches!(
            parse("((a with b) unless c)").unwrap(),
            Rich::Unless(..)
        ));
        for (text, message) in [
            ("(a or b", "expected ')', found 'the end'"),
            ("(a or b and c)", "expected ')', found 'and'"),
            ("(a nor b)", "'nor' is not an operator"),
            ("(a >= )", "'a' lacks a version"),
            ("a b", "'b' does not belong there in 'a b'"),
            ("", "a name is missing"),
        ] {
            assert_eq!(parse(text).unwrap_err(), message, "{text}");
        }
        assert_eq!(parse(&"(".repeat(99)).unwrap_err(), "is nested too deep");
    }

    #[test]
    fn ranges_overlap() {
        let side = |text: &'static str| match text.split_once(' ') {
            Some((sign, evr)) => (Comparison::parse(sign).unwrap(), evr),
            None => (Comparison::ANY, ""),
        };
        for (provided, required, expected) in [
            ("", ">= 2", true),
            ("= 1-1", "", true),
            ("= 1-1", "= 1", true),
            ("= 1", "= 1-1", true),
            ("= 1-1", "> 1", false),
            ("= 1-1", "< 1-2", true),
            ("= 1:1-1", ">= 2", true),
            ("< 3", "> 2", true),
            ("< 2", "> 2", false),
            ("<= 2", ">= 2", true),
            ("> 1", ">= 9", true),
        ] {
            assert_eq!(
                overlap(side(provided), side(required)),
                expected,
                "{provided} {required}"
            );
        }
    }

    proptest::proptest! {
        #[test]
        fn any_relation_is_read_without_panic(text in "[ab() <>=0-9]{0,20}( if | or |and)?[ab() ]{0,12}") {
            let _ = parse(&text);
        }
    }
}
