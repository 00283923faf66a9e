//! The attributes of a parameter: a default, or the rest marker.

use proc_macro2::TokenStream;
use quote::quote_spanned;
use syn::{
    Attribute, Expr, FnArg, GenericArgument, Meta, PatType, Signature, Type, ext::IdentExt,
    spanned::Spanned,
};

use crate::{
    errors::Errors,
    function::Param,
    types::{generic_arguments, last_segment_is},
};

/// Whether a call may omit the parameter.
#[derive(Debug)]
pub(crate) enum Kind {
    /// Every call must give it.
    Required,
    /// `#[default]` or `#[default(expr)]`.
    Default(Option<Box<Expr>>),
    /// `#[rest]` on a `Vec` of this type.
    Rest(Box<Type>),
}

/// Reads the attributes that belong to the task and not to the compiler.
pub(crate) fn read_kind(input: &PatType, errors: &mut Errors) -> Kind {
    let mut own = input.attrs.iter().filter(|attribute| is_own(attribute));
    let Some(attribute) = own.next() else {
        return Kind::Required;
    };
    for extra in own {
        errors.at(
            extra,
            "a parameter has one of `#[default]`, `#[default(value)]` and `#[rest]`, once",
        );
    }
    if attribute.path().is_ident("rest") {
        read_rest(attribute, &input.ty, errors)
    } else {
        read_default(attribute, errors)
    }
}

fn read_default(attribute: &Attribute, errors: &mut Errors) -> Kind {
    let value = match &attribute.meta {
        Meta::Path(_) => None,
        Meta::List(list) => match list.parse_args() {
            Ok(value) => Some(Box::new(value)),
            Err(error) => {
                errors.at(
                    attribute,
                    format!("`#[default(…)]` takes one value, such as `#[default(3)]`: {error}"),
                );
                None
            }
        },
        Meta::NameValue(_) => {
            errors.at(
                attribute,
                "write `#[default(value)]`, or `#[default]` for the type's own default",
            );
            None
        }
    };
    Kind::Default(value)
}

fn read_rest(attribute: &Attribute, ty: &Type, errors: &mut Errors) -> Kind {
    if !matches!(attribute.meta, Meta::Path(_)) {
        errors.at(attribute, "`#[rest]` takes no value");
    }
    match generic_arguments(ty)[..] {
        [GenericArgument::Type(element)] if last_segment_is(ty, "Vec") => {
            Kind::Rest(Box::new(element.clone()))
        }
        _ => {
            errors.at(
                ty,
                "a `#[rest]` parameter takes any number of arguments of one type: make it a `Vec<T>`",
            );
            Kind::Required
        }
    }
}

/// Refuses defaults and rest markers on the context, which is no argument.
pub(crate) fn check_context(input: &PatType, errors: &mut Errors) {
    refuse_own(
        input,
        "the context comes from the engine: it has no default and takes no arguments",
        errors,
    );
}

/// Refuses defaults and rest markers on application data, which is no argument.
pub(crate) fn check_data(input: &PatType, errors: &mut Errors) {
    refuse_own(
        input,
        "application data comes from the app: it has no default and takes no arguments",
        errors,
    );
}

fn refuse_own(input: &PatType, message: &str, errors: &mut Errors) {
    for attribute in input.attrs.iter().filter(|attribute| is_own(attribute)) {
        errors.at(attribute, message);
    }
}

/// Checks that each positional argument belongs to exactly one parameter.
pub(crate) fn check_order(params: &[Param], errors: &mut Errors) {
    let mut optional = None;
    for (i, param) in params.iter().enumerate() {
        match (&param.kind, optional) {
            (Kind::Required, Some(earlier)) => errors.at(
                &param.ident,
                format!(
                    "`{}` has no default but comes after `{earlier}`, which has one: give it one, or move it before",
                    param.ident
                ),
            ),
            (Kind::Rest(_), _) if i + 1 < params.len() => errors.at(
                &param.ident,
                "a `#[rest]` parameter takes all arguments that are left: make it the last one",
            ),
            (Kind::Default(_), _) => optional = Some(&param.ident),
            _ => {}
        }
    }
}

/// Removes the attributes that the compiler does not know.
pub(crate) fn strip(sig: &mut Signature) {
    for input in &mut sig.inputs {
        if let FnArg::Typed(input) = input {
            input.attrs.retain(|attribute| !is_own(attribute));
        }
    }
}

fn is_own(attribute: &Attribute) -> bool {
    attribute.path().is_ident("default") || attribute.path().is_ident("rest")
}

/// Generates the `chordal::Parameter` of a parameter.
pub(crate) fn constant(param: &Param) -> TokenStream {
    let Param {
        ident, ty, kind, ..
    } = param;
    let name = ident.unraw().to_string();
    let span = crate::expand::generated_at(ty);
    match kind {
        Kind::Required => {
            quote_spanned!(span=> ::chordal::Parameter::required_of(#name, ::chordal::expansion::Typed::<#ty>::TYPE))
        }
        Kind::Default(value) => {
            let value = match value {
                Some(value) => {
                    let at = crate::expand::generated_at(value.span());
                    quote_spanned!(at=> || -> #ty { #value })
                }
                None => quote_spanned! {span=>
                    || -> #ty { <#ty as ::core::default::Default>::default() }
                },
            };
            quote_spanned!(span=> ::chordal::Parameter::optional::<#ty>(#name, &#value))
        }
        Kind::Rest(element) => {
            quote_spanned!(span=> ::chordal::Parameter::rest_of(#name, ::chordal::expansion::Typed::<#element>::TYPE))
        }
    }
}
