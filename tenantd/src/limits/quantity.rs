//! Amounts as an operator writes them: `1.5` cores, `512M` bytes, `100M` bits a second, a plain number of things.
//!
//! In: text, or JSON numbers and strings. Out: whole numbers of the smallest unit, never zero; zero is what an operator
//! writes who means "none at all" or "no limit", and the two must not be taken for each other.

use std::fmt;
use std::str::FromStr;

use serde::de::{self, Deserializer, Visitor};
use serde::{Deserialize, Serialize, Serializer};
use stackmap::Invalid;
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{ObjectBuilder, Schema, SchemaType, Type};

/// Processor time: thousandths of a core, at least 1. In JSON and text a number of cores, such as `1.5`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cores(u32);

impl Cores {
    /// From thousandths of a core; none for zero.
    #[must_use]
    pub const fn from_milli(milli: u32) -> Option<Self> {
        if milli == 0 { None } else { Some(Self(milli)) }
    }

    /// Thousandths of a core.
    #[must_use]
    pub const fn milli(self) -> u32 {
        self.0
    }
}

/// A number of bytes (or bytes a second), at least 1. Text may end in `K`, `M`, `G`, `T`: powers of 1,024.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Bytes(u64);

/// A number of bits a second, at least 1. Text may end in `k`, `M`, `G`, `T`: powers of 1,000.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct BitRate(u64);

/// A number of things (processes, connections), at least 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Count(u64);

macro_rules! whole_number {
    ($t:ident) => {
        impl $t {
            /// None for zero.
            #[must_use]
            pub const fn new(n: u64) -> Option<Self> {
                if n == 0 { None } else { Some(Self(n)) }
            }

            /// The number.
            #[must_use]
            pub const fn get(self) -> u64 {
                self.0
            }
        }

        impl Serialize for $t {
            fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.serialize_u64(self.0)
            }
        }
    };
}
whole_number!(Bytes);
whole_number!(BitRate);
whole_number!(Count);

const NOT_ZERO: &str = "must be more than zero; write none for no limit";

impl FromStr for Cores {
    type Err = Invalid;

    fn from_str(s: &str) -> Result<Self, Invalid> {
        let rule = "must be a number of cores such as 2 or 0.5, with at most three digits after the point";
        let milli = scaled(s, 1000).ok_or_else(|| Invalid::new("cpu", s, rule))?;
        let milli = u32::try_from(milli).map_err(|_| Invalid::new("cpu", s, "is more than any machine has"))?;
        Self::from_milli(milli).ok_or_else(|| Invalid::new("cpu", s, NOT_ZERO))
    }
}

impl FromStr for Bytes {
    type Err = Invalid;

    fn from_str(s: &str) -> Result<Self, Invalid> {
        let rule = "must be a whole number of bytes such as 1048576, 512M or 1.5G (K, M, G, T are powers of 1024)";
        with_suffix(s, 1024)
            .ok_or(rule)
            .and_then(|n| Self::new(n).ok_or(NOT_ZERO))
            .map_err(|r| Invalid::new("bytes", s, r))
    }
}

impl FromStr for BitRate {
    type Err = Invalid;

    fn from_str(s: &str) -> Result<Self, Invalid> {
        let rule =
            "must be a whole number of bits a second such as 64000, 100M or 1.5G (k, M, G, T are powers of 1000)";
        with_suffix(s, 1000)
            .ok_or(rule)
            .and_then(|n| Self::new(n).ok_or(NOT_ZERO))
            .map_err(|r| Invalid::new("rate", s, r))
    }
}

impl FromStr for Count {
    type Err = Invalid;

    fn from_str(s: &str) -> Result<Self, Invalid> {
        let number = scaled(s, 1).ok_or("must be a whole number");
        number.and_then(|n| Self::new(n).ok_or(NOT_ZERO)).map_err(|r| Invalid::new("count", s, r))
    }
}

/// `1.5G` times the power of `base`; none when it is not a number, not whole or does not fit.
fn with_suffix(s: &str, base: u64) -> Option<u64> {
    let (digits, power) = match s.char_indices().next_back()? {
        (at, 'k' | 'K') => (&s[..at], 1),
        (at, 'm' | 'M') => (&s[..at], 2),
        (at, 'g' | 'G') => (&s[..at], 3),
        (at, 't' | 'T') => (&s[..at], 4),
        _ => (s, 0),
    };
    scaled(digits, base.pow(power))
}

/// A decimal fraction times `unit`, exactly. Digits only: no sign, no exponent, no leading zero (some tools read `010`
/// as octal).
fn scaled(s: &str, unit: u64) -> Option<u64> {
    let (whole, part) = s.split_once('.').unwrap_or((s, "0"));
    let digits = |t: &str| !t.is_empty() && t.len() <= 20 && t.bytes().all(|b| b.is_ascii_digit());
    if !digits(whole) || !digits(part) || part.len() > 9 || (whole.len() > 1 && whole.starts_with('0')) {
        return None;
    }
    let divisor = 10_u128.pow(u32::try_from(part.len()).ok()?);
    let amount = (whole.parse::<u128>().ok()? * divisor + part.parse::<u128>().ok()?) * u128::from(unit);
    if amount % divisor == 0 { u64::try_from(amount / divisor).ok() } else { None }
}

/// The shortest form that says exactly the number: the greatest suffix that divides it.
fn write_scaled(f: &mut fmt::Formatter<'_>, n: u64, base: u64, suffixes: [&str; 4]) -> fmt::Result {
    let (mut n, mut suffix) = (n, "");
    for next in suffixes {
        if n == 0 || n % base != 0 {
            break;
        }
        (n, suffix) = (n / base, next);
    }
    write!(f, "{n}{suffix}")
}

impl fmt::Display for Cores {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, part) = (self.0 / 1000, self.0 % 1000);
        match part {
            0 => write!(f, "{whole}"),
            _ => write!(f, "{whole}.{}", format!("{part:03}").trim_end_matches('0')),
        }
    }
}

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_scaled(f, self.0, 1024, ["K", "M", "G", "T"])
    }
}

impl fmt::Display for BitRate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_scaled(f, self.0, 1000, ["k", "M", "G", "T"])
    }
}

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl Serialize for Cores {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        if self.0.is_multiple_of(1000) {
            s.serialize_u32(self.0 / 1000)
        } else {
            s.serialize_f64(f64::from(self.0) / 1000.0)
        }
    }
}

/// A JSON number is read by its text, so that it obeys the same rules.
struct NumberOrText<T>(&'static str, std::marker::PhantomData<T>);

impl<T: FromStr<Err = Invalid>> Visitor<'_> for NumberOrText<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }

    fn visit_u64<E: de::Error>(self, n: u64) -> Result<T, E> {
        self.visit_str(&n.to_string())
    }

    fn visit_i64<E: de::Error>(self, n: i64) -> Result<T, E> {
        self.visit_str(&n.to_string())
    }

    fn visit_f64<E: de::Error>(self, n: f64) -> Result<T, E> {
        self.visit_str(&n.to_string())
    }

    fn visit_str<E: de::Error>(self, s: &str) -> Result<T, E> {
        s.parse().map_err(|invalid: Invalid| E::custom(format!("{s:?} {}", invalid.rule)))
    }
}

/// Numbers and text, both with the rule that the reader has; what numbers are too many for what is said in words.
fn number_or_text(number: Type, pattern: &str, words: &str) -> RefOr<Schema> {
    let object = ObjectBuilder::new().schema_type(SchemaType::from_iter([number, Type::String]));
    object.exclusive_minimum(Some(0)).pattern(Some(pattern)).description(Some(words)).into()
}

macro_rules! schema {
    ($t:ident, $number:expr, $pattern:literal, $words:literal) => {
        impl utoipa::PartialSchema for $t {
            fn schema() -> RefOr<Schema> {
                number_or_text($number, $pattern, $words)
            }
        }
        impl utoipa::ToSchema for $t {}
    };
}
schema!(Cores, Type::Number, r"^(0|[1-9][0-9]*)(\.[0-9]{1,9})?$", "Cores, such as 1.5.");
schema!(Bytes, Type::Integer, r"^(0|[1-9][0-9]*)(\.[0-9]{1,9})?[kKmMgGtT]?$", "Bytes, or text such as 512M.");
schema!(BitRate, Type::Integer, r"^(0|[1-9][0-9]*)(\.[0-9]{1,9})?[kKmMgGtT]?$", "Bits a second, or text such as 100M.");
schema!(Count, Type::Integer, r"^[1-9][0-9]*$", "A whole number.");

macro_rules! read_number_or_text {
    ($t:ident, $expecting:literal) => {
        impl<'de> Deserialize<'de> for $t {
            fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                d.deserialize_any(NumberOrText($expecting, std::marker::PhantomData))
            }
        }
    };
}
read_number_or_text!(Cores, "a number of cores such as 1.5");
read_number_or_text!(Bytes, "a number of bytes, or text such as \"512M\"");
read_number_or_text!(BitRate, "a number of bits a second, or text such as \"100M\"");
read_number_or_text!(Count, "a whole number");
