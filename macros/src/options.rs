//! The options in `#[task(…)]`.

use darling::{Error, FromMeta, ast::NestedMeta};
use proc_macro2::{Literal, TokenStream, TokenTree};
use quote::{ToTokens, quote};
use syn::{Expr, Lit, LitStr, Meta};

use crate::rate::{self, Rate};
use crate::{duration, errors::Errors};

const KNOWN: [&str; 21] = [
    "name",
    "queue",
    "priority",
    "max_retries",
    "retry_backoff",
    "retry_backoff_max",
    "retry_jitter",
    "default_retry_delay",
    "retry_if",
    "soft_time_limit",
    "time_limit",
    "rate_limit",
    "burst",
    "limit",
    "limit_by",
    "concurrency",
    "concurrency_by",
    "breaker",
    "on_open",
    "breaker_if",
    "blocking",
];

/// The options given to `#[task(…)]`; durations are in milliseconds.
#[derive(Debug, Default, FromMeta)]
#[darling(default)]
pub(crate) struct Options {
    #[darling(with = read_text)]
    pub(crate) name: Option<String>,
    #[darling(with = read_text)]
    queue: Option<String>,
    #[darling(with = read_priority)]
    priority: Option<u8>,
    #[darling(with = read_count)]
    max_retries: Option<u32>,
    #[darling(with = read_delay)]
    retry_backoff: Option<u64>,
    #[darling(with = read_delay)]
    retry_backoff_max: Option<u64>,
    #[darling(with = read_flag)]
    retry_jitter: bool,
    #[darling(with = read_delay)]
    default_retry_delay: Option<u64>,
    #[darling(with = read_expression)]
    retry_if: Option<Expr>,
    #[darling(with = read_limit)]
    soft_time_limit: Option<u64>,
    #[darling(with = read_limit)]
    time_limit: Option<u64>,
    #[darling(with = read_rate)]
    rate_limit: Option<Rate>,
    #[darling(with = read_burst)]
    burst: Option<u32>,
    #[darling(with = read_text)]
    limit: Option<String>,
    #[darling(with = read_parameter)]
    limit_by: Option<LitStr>,
    #[darling(with = read_concurrency)]
    concurrency: Option<u32>,
    #[darling(with = read_parameter)]
    concurrency_by: Option<LitStr>,
    #[darling(with = read_text)]
    breaker: Option<String>,
    #[darling(with = read_on_open)]
    on_open: Option<OnOpen>,
    #[darling(with = read_expression)]
    breaker_if: Option<Expr>,
    #[darling(with = read_word)]
    pub(crate) blocking: bool,
}

/// What a task does while its breaker is open.
#[derive(Clone, Copy, Debug)]
enum OnOpen {
    Wait,
    Fail,
}

impl Options {
    /// Parses the list. After an error the options are the defaults, except `blocking`, so that the
    /// function can still be checked and expanded.
    pub(crate) fn parse(list: TokenStream, refusals: &mut Errors) -> Self {
        let defaults = Self {
            blocking: list.clone().into_iter().any(is_blocking),
            ..Self::default()
        };
        let list = match NestedMeta::parse_meta_list(list) {
            Ok(list) => list,
            Err(error) => {
                refusals.add(error);
                return defaults;
            }
        };
        let mut errors = Error::accumulator();
        let mut known: Vec<NestedMeta> = Vec::new();
        for option in list {
            let name = name_of(&option);
            if !KNOWN.contains(&name.as_str()) {
                errors.push(unknown(&option));
            } else if known.iter().any(|earlier| name_of(earlier) == name) {
                errors.push(Error::custom(format!("`{name}` is given twice")).with_span(&option));
            } else {
                known.push(option);
            }
        }
        let options = errors.handle(Self::from_list(&known));
        if let Some(Err(error)) = options.as_ref().map(|options| options.check_limits(&known)) {
            errors.push(error);
        }
        match errors.finish() {
            Ok(()) => options.unwrap_or(defaults),
            Err(error) => {
                refusals.add(error.into());
                defaults
            }
        }
    }

    /// Refuses a soft limit above the hard one, a burst above the rate, and what divides a limit that
    /// is not set.
    fn check_limits(&self, given: &[NestedMeta]) -> darling::Result<()> {
        let refused = |option: &str, message: &str| {
            let given = given.iter().find_map(|one| match one {
                NestedMeta::Meta(meta) if path_of(meta) == option => Some(meta),
                _ => None,
            });
            given.map_or(Ok(()), |meta| Err(at_value(meta, message.to_owned())))
        };
        if let (Some(soft), Some(hard)) = (self.soft_time_limit, self.time_limit)
            && soft > hard
        {
            refused(
                "soft_time_limit",
                "`soft_time_limit` is above `time_limit`, so no attempt would reach it",
            )?;
        }
        if self.limit_by.is_some() && self.rate_limit.is_none() {
            refused(
                "limit_by",
                "`limit_by` divides a `rate_limit`: add `rate_limit = \"10/m\"`",
            )?;
        }
        if self.concurrency_by.is_some() && self.concurrency.is_none() {
            refused(
                "concurrency_by",
                "`concurrency_by` divides a `concurrency`: add `concurrency = 1`",
            )?;
        }
        let of_breaker = [
            ("on_open", self.on_open.is_some()),
            ("breaker_if", self.breaker_if.is_some()),
        ];
        for (option, is_given) in of_breaker {
            if is_given && self.breaker.is_none() {
                let message = format!("`{option}` is about a `breaker`: add `breaker = \"…\"`");
                refused(option, &message)?;
            }
        }
        match (self.burst, self.rate_limit) {
            (Some(_), None) => refused(
                "burst",
                "`burst` is the number of starts at once under a `rate_limit`: add `rate_limit = \"10/m\"`",
            ),
            (Some(burst), Some(rate)) if burst > rate.starts => refused(
                "burst",
                "`burst` is above the starts of `rate_limit`, which holds in every period",
            ),
            _ => Ok(()),
        }
    }

    /// Refuses a limit that is divided by a parameter which the function does not have.
    pub(crate) fn check_parameters(&self, parameters: &[String], errors: &mut Errors) {
        let keys = [
            ("limit_by", &self.limit_by),
            ("concurrency_by", &self.concurrency_by),
        ];
        for (option, by) in keys {
            let Some(by) = by else { continue };
            if !parameters.contains(&by.value()) {
                let listed: Vec<_> = parameters.iter().map(|name| format!("`{name}`")).collect();
                let listed = match listed.is_empty() {
                    true => "the task takes no arguments".to_owned(),
                    false => format!("its parameters are {}", listed.join(", ")),
                };
                errors.at(
                    by,
                    format!(
                        "`{option}` names a parameter, and `{}` is none: {listed}",
                        by.value()
                    ),
                );
            }
        }
    }

    /// Generates `const OPTIONS`, or nothing if every option is the default.
    pub(crate) fn to_const(&self) -> TokenStream {
        let queue = self.queue.as_ref().map(|queue| quote!(.queue(#queue)));
        let priority = number(self.priority).map(|n| quote!(.priority(#n)));
        let max_retries = number(self.max_retries).map(|n| quote!(.max_retries(#n)));
        let retry_backoff = time(self.retry_backoff).map(|d| quote!(.retry_backoff(#d)));
        let retry_backoff_max =
            time(self.retry_backoff_max).map(|d| quote!(.retry_backoff_max(#d)));
        let retry_jitter = self.retry_jitter.then(|| quote!(.retry_jitter(true)));
        let default_retry_delay =
            time(self.default_retry_delay).map(|d| quote!(.default_retry_delay(#d)));
        let retry_if = self.retry_if.as_ref().map(|f| quote!(.retry_if(#f)));
        let soft_time_limit = time(self.soft_time_limit).map(|d| quote!(.soft_time_limit(#d)));
        let time_limit = time(self.time_limit).map(|d| quote!(.time_limit(#d)));
        let rate_limit = self.rate_limit.map(|rate| {
            let starts = Literal::u32_unsuffixed(rate.starts);
            let period = time(Some(rate.period_ms));
            let burst = number(self.burst).map(|n| quote!(.burst(#n)));
            quote!(.rate_limit(::chordal::RateLimit::new(#starts, #period) #burst))
        });
        let limit = self.limit.as_ref().map(|limit| quote!(.limit(#limit)));
        let limit_by = self.limit_by.as_ref().map(|by| quote!(.limit_by(#by)));
        let concurrency = number(self.concurrency).map(|n| quote!(.concurrency(#n)));
        let concurrency_by = self.concurrency_by.as_ref();
        let concurrency_by = concurrency_by.map(|by| quote!(.concurrency_by(#by)));
        let breaker = self.breaker.as_ref().map(|name| quote!(.breaker(#name)));
        let on_open = self.on_open.map(|on_open| match on_open {
            OnOpen::Wait => quote!(.on_open(::chordal::OnOpen::Wait)),
            OnOpen::Fail => quote!(.on_open(::chordal::OnOpen::Fail)),
        });
        let breaker_if = self.breaker_if.as_ref().map(|f| quote!(.breaker_if(#f)));
        let blocking = self.blocking.then(|| quote!(.blocking()));
        let calls = quote! {
            #queue #priority #max_retries #retry_backoff #retry_backoff_max #retry_jitter
            #default_retry_delay #retry_if #soft_time_limit #time_limit #rate_limit #limit
            #limit_by #concurrency #concurrency_by #breaker #on_open #breaker_if #blocking
        };
        if calls.is_empty() {
            return calls;
        }
        quote! {
            const OPTIONS: ::chordal::TaskOptions = ::chordal::TaskOptions::new() #calls;
        }
    }
}

/// Returns an integer without a type suffix, so that the builder determines the type.
fn number(value: Option<impl Into<u64>>) -> Option<Literal> {
    value.map(|value| Literal::u64_unsuffixed(value.into()))
}

fn time(ms: Option<u64>) -> Option<TokenStream> {
    ms.map(|ms| quote!(::core::time::Duration::from_millis(#ms)))
}

fn is_blocking(token: TokenTree) -> bool {
    matches!(token, TokenTree::Ident(word) if word == "blocking")
}

fn name_of(option: &NestedMeta) -> String {
    match option {
        NestedMeta::Meta(meta) => path_of(meta),
        NestedMeta::Lit(_) => String::new(),
    }
}

fn path_of(meta: &Meta) -> String {
    meta.path().to_token_stream().to_string().replace(' ', "")
}

fn unknown(option: &NestedMeta) -> Error {
    let known = KNOWN.map(|name| format!("`{name}`")).join(", ");
    let message = match option {
        NestedMeta::Meta(meta) => format!(
            "unknown option `{}`; the options are {known}",
            path_of(meta)
        ),
        NestedMeta::Lit(_) => {
            format!("an option is written `name = value`; the options are {known}")
        }
    };
    Error::custom(message).with_span(option)
}

fn read_text(meta: &Meta) -> darling::Result<Option<String>> {
    let option = path_of(meta);
    match literal(meta) {
        Some(Lit::Str(text)) if text.value().trim().is_empty() => Err(Error::custom(format!(
            "`{option}` is empty; leave it out for the default"
        ))
        .with_span(text)),
        Some(Lit::Str(text)) => Ok(Some(text.value())),
        _ => Err(expected(meta, "a string", "\"shop.orders\"")),
    }
}

fn read_parameter(meta: &Meta) -> darling::Result<Option<LitStr>> {
    match literal(meta) {
        Some(Lit::Str(name)) => Ok(Some(name.clone())),
        _ => Err(expected(meta, "the name of a parameter", "\"tenant\"")),
    }
}

fn read_priority(meta: &Meta) -> darling::Result<Option<u8>> {
    let refused = || expected(meta, "a whole number from 0 to 9", "5");
    match literal(meta) {
        Some(Lit::Int(number)) => match number.base10_parse() {
            Ok(priority @ 0..=9) => Ok(Some(priority)),
            _ => Err(refused()),
        },
        _ => Err(refused()),
    }
}

fn read_count(meta: &Meta) -> darling::Result<Option<u32>> {
    let refused = || expected(meta, "a whole number from 0 to 4294967295", "3");
    match literal(meta) {
        Some(Lit::Int(number)) => number.base10_parse().map(Some).map_err(|_| refused()),
        _ => Err(refused()),
    }
}

fn read_delay(meta: &Meta) -> darling::Result<Option<u64>> {
    let Some(Lit::Str(text)) = literal(meta) else {
        return Err(expected(meta, "a duration in a string", "\"1m30s\""));
    };
    duration::parse_ms(&text.value())
        .map(Some)
        .map_err(|reason| {
            let option = path_of(meta);
            Error::custom(format!("invalid duration for `{option}`: {reason}")).with_span(text)
        })
}

fn read_limit(meta: &Meta) -> darling::Result<Option<u64>> {
    match read_delay(meta)? {
        Some(0) => {
            let option = path_of(meta);
            let message = format!(
                "`{option}` is zero, so no attempt could finish; leave it out for no limit"
            );
            Err(at_value(meta, message))
        }
        limit => Ok(limit),
    }
}

fn read_rate(meta: &Meta) -> darling::Result<Option<Rate>> {
    let Some(Lit::Str(text)) = literal(meta) else {
        return Err(expected(meta, "a rate in a string", "\"10/m\""));
    };
    rate::parse(&text.value()).map(Some).map_err(|reason| {
        let option = path_of(meta);
        Error::custom(format!("invalid rate for `{option}`: {reason}")).with_span(text)
    })
}

fn read_burst(meta: &Meta) -> darling::Result<Option<u32>> {
    match read_count(meta)? {
        Some(0) => Err(at_value(meta, "`burst` is at least 1".to_owned())),
        burst => Ok(burst),
    }
}

fn read_concurrency(meta: &Meta) -> darling::Result<Option<u32>> {
    match read_count(meta)? {
        Some(0) => Err(at_value(meta, "`concurrency` is at least 1".to_owned())),
        concurrency => Ok(concurrency),
    }
}

fn read_on_open(meta: &Meta) -> darling::Result<Option<OnOpen>> {
    let refused = || expected(meta, "`\"wait\"` or `\"fail\"`", "\"fail\"");
    match literal(meta) {
        Some(Lit::Str(text)) => match &*text.value() {
            "wait" => Ok(Some(OnOpen::Wait)),
            "fail" => Ok(Some(OnOpen::Fail)),
            _ => Err(refused()),
        },
        _ => Err(refused()),
    }
}

fn read_flag(meta: &Meta) -> darling::Result<bool> {
    match (meta, literal(meta)) {
        (Meta::Path(_), _) => Ok(true),
        (_, Some(Lit::Bool(flag))) => Ok(flag.value),
        _ => Err(expected(meta, "`true` or `false`", "true")),
    }
}

fn read_expression(meta: &Meta) -> darling::Result<Option<Expr>> {
    match meta {
        Meta::NameValue(pair) => Ok(Some(pair.value.clone())),
        _ => Err(expected(
            meta,
            "a function that takes a `&TaskError` and returns a `bool`",
            "|error| error.error_type() == \"TimedOut\"",
        )),
    }
}

fn read_word(meta: &Meta) -> darling::Result<bool> {
    match meta {
        Meta::Path(_) => Ok(true),
        _ => {
            let option = path_of(meta);
            Err(Error::custom(format!(
                "`{option}` takes no value: write `{option}`, or leave it out"
            ))
            .with_span(meta))
        }
    }
}

fn expected(meta: &Meta, what: &str, example: &str) -> Error {
    let option = path_of(meta);
    at_value(
        meta,
        format!("`{option}` takes {what}: write `{option} = {example}`"),
    )
}

fn at_value(meta: &Meta, message: String) -> Error {
    match meta {
        Meta::NameValue(pair) => Error::custom(message).with_span(&pair.value),
        _ => Error::custom(message).with_span(meta),
    }
}

/// Returns the literal in `option = literal`, also from a `macro_rules!` fragment.
fn literal(meta: &Meta) -> Option<&Lit> {
    let Meta::NameValue(pair) = meta else {
        return None;
    };
    let mut value = &pair.value;
    while let Expr::Group(group) = value {
        value = &group.expr;
    }
    match value {
        Expr::Lit(value) => Some(&value.lit),
        _ => None,
    }
}
