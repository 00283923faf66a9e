//! How the options of a task are stored.
//!
//! A task without options, and one with those that the first stores had, are stored as these stores
//! did: as an optional struct. The rest makes a third variant, whose tag an optional value never has.

use std::borrow::Cow;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::options::Options;
use super::rate_limit::RateLimit;
use super::stamps::Stamps;

#[derive(Serialize)]
enum Written<'a> {
    None,
    Some(&'a Options),
    Extended(&'a Options, Added<'a>),
}

#[derive(Deserialize)]
enum Read {
    None,
    Some(Box<Options>),
    Extended(Box<Options>, Added<'static>),
}

/// The options that the first stores did not have.
#[derive(Serialize, Deserialize)]
struct Added<'a> {
    rate_limit: Option<StoredRate>,
    limit_key: Option<Cow<'a, str>>,
    stamps: Cow<'a, Stamps>,
}

#[derive(Serialize, Deserialize)]
struct StoredRate {
    starts: u32,
    period_ms: u64,
    burst: u32,
}

/// Returns whether these options need the extension of the format.
pub(crate) fn are_extended(options: &Options) -> bool {
    options.rate_limit.is_some() || options.limit_key.is_some() || !options.stamps.is_empty()
}

pub(crate) fn serialize<S: Serializer>(
    options: &Option<Box<Options>>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    let written = match options.as_deref() {
        None => Written::None,
        Some(options) if are_extended(options) => {
            let extension = Added {
                rate_limit: options.rate_limit.map(|rate| StoredRate {
                    starts: rate.starts(),
                    period_ms: rate.period_ms(),
                    burst: rate.burst_size(),
                }),
                limit_key: options.limit_key.as_deref().map(Cow::Borrowed),
                stamps: Cow::Borrowed(&options.stamps),
            };
            Written::Extended(options, extension)
        }
        Some(options) => Written::Some(options),
    };
    written.serialize(serializer)
}

pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Box<Options>>, D::Error> {
    Ok(match Read::deserialize(deserializer)? {
        Read::None => None,
        Read::Some(options) => Some(options),
        Read::Extended(mut options, extension) => {
            options.rate_limit = extension.rate_limit.map(|rate| {
                let StoredRate {
                    starts,
                    period_ms,
                    burst,
                } = rate;
                RateLimit::of_stored(starts, period_ms, burst)
            });
            options.limit_key = extension.limit_key;
            options.stamps = extension.stamps.into_owned();
            Some(options)
        }
    })
}
