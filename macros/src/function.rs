//! Reads the annotated function and reports all its errors at once.

use proc_macro2::{Span, TokenStream};
use quote::{quote, quote_spanned};
use syn::{
    Attribute, FnArg, GenericArgument, Ident, Item, ItemFn, Pat, PatType, ReturnType, Signature,
    Type, TypeReference, Visibility, ext::IdentExt, spanned::Spanned, visit::Visit,
};

use crate::{
    attributes::Attributes,
    errors::Errors,
    expand::generated_at,
    parameter::{self, Kind},
    types::{OwnedCheck, Place, generic_arguments, last_segment_is, peel},
};

const MAX_PARAMS: usize = 12;

/// A function that can be a task.
#[derive(Debug)]
pub(crate) struct Function {
    pub(crate) attributes: Attributes,
    pub(crate) vis: Visibility,
    pub(crate) ident: Ident,
    /// The function itself, private and with its own attributes.
    pub(crate) body: ItemFn,
    pub(crate) context: Option<Param>,
    /// The parameters that take application data.
    pub(crate) data: Vec<Param>,
    /// The arguments.
    pub(crate) params: Vec<Param>,
    pub(crate) output: Output,
}

/// A parameter, without `mut` and attributes.
#[derive(Debug)]
pub(crate) struct Param {
    pub(crate) ident: Ident,
    pub(crate) ty: Type,
    pub(crate) kind: Kind,
    /// `T` of a `Results<T>`: a list that the function reads as it goes.
    pub(crate) streams: Option<Type>,
}

impl Param {
    /// Returns the type that signatures take for it, given or from upstream.
    pub(crate) fn given_as(&self) -> TokenStream {
        let Self { ty, streams, .. } = self;
        match streams {
            Some(element) => quote_spanned!(generated_at(ty)=> ::std::vec::Vec<#element>),
            None => quote!(#ty),
        }
    }
}

#[derive(Debug)]
pub(crate) enum Output {
    Unit,
    Value(Box<Type>),
    /// The last segment of the path is `Result`; `value` is the `T` of an explicit `Result<T, E>`.
    Fallible {
        ty: Box<Type>,
        value: Option<Box<Type>>,
    },
}

impl Function {
    /// Reads the function, and adds to `errors` everything that prevents it from being a task.
    pub(crate) fn read(mut item: ItemFn, blocking: bool, errors: &mut Errors) -> Self {
        check_free(&item, errors);
        check_header(&item.sig, blocking, errors);
        let Inputs {
            context,
            data,
            params,
        } = read_params(&item.sig, errors);
        parameter::strip(&mut item.sig);
        let output = read_output(&item.sig.output, errors);
        let attributes = Attributes::sort(std::mem::take(&mut item.attrs));
        let vis = std::mem::replace(&mut item.vis, Visibility::Inherited);
        item.attrs = [&attributes.lints[..], &attributes.body[..]].concat();
        Self {
            attributes,
            vis,
            ident: item.sig.ident.clone(),
            body: item,
            context,
            data,
            params,
            output,
        }
    }

    pub(crate) fn is_async(&self) -> bool {
        self.body.sig.asyncness.is_some()
    }

    /// Returns whether the first parameter reads the upstream list as the function goes.
    pub(crate) fn streams(&self) -> bool {
        self.params
            .first()
            .is_some_and(|first| first.streams.is_some())
    }

    /// Returns the names of its parameters, as callers refer to them.
    pub(crate) fn parameters(&self) -> Vec<String> {
        let names = self.params.iter();
        names.map(|param| param.ident.unraw().to_string()).collect()
    }

    /// Returns the default name under which the task is registered.
    pub(crate) fn name(&self) -> String {
        self.ident.unraw().to_string()
    }
}

/// Finds `self` or `Self`, which occur only in a function of an `impl`.
pub(crate) fn in_impl(item: &ItemFn) -> Option<Span> {
    struct Search(Option<Span>);

    impl Visit<'_> for Search {
        fn visit_ident(&mut self, ident: &Ident) {
            if ident == "Self" {
                self.0.get_or_insert(ident.span());
            }
        }

        // An inner item may contain its own `impl`.
        fn visit_item(&mut self, _: &Item) {}
    }

    let mut search = Search(item.sig.receiver().map(Spanned::span));
    search.visit_item_fn(item);
    search.0
}

fn check_free(item: &ItemFn, errors: &mut Errors) {
    if let Some(span) = in_impl(item) {
        errors.add(syn::Error::new(
            span,
            "a task is a free function, without `self` and `Self`: move it out of the `impl` block",
        ));
    }
}

fn check_header(sig: &Signature, blocking: bool, errors: &mut Errors) {
    match (&sig.asyncness, blocking) {
        (Some(token), true) => errors.at(
            token,
            "a blocking task is a plain `fn`: remove `async` here, or `blocking` from `#[task(…)]`",
        ),
        (None, false) => errors.at(
            sig.fn_token,
            "a task is an `async fn`; for CPU work or blocking I/O keep the plain `fn` and write `#[task(blocking)]`",
        ),
        _ => {}
    }
    if let Some(token) = &sig.constness {
        errors.at(token, "a task cannot be a `const fn`: remove `const`");
    }
    if let Some(token) = &sig.unsafety {
        errors.at(token, "a task cannot be an `unsafe fn`: the engine, which calls it, cannot keep a safety contract");
    }
    if let Some(abi) = &sig.abi {
        errors.at(
            abi,
            "a task cannot be an `extern fn`: the engine calls it as a Rust function",
        );
    }
    if !sig.generics.params.is_empty() {
        errors.at(
            &sig.generics.params,
            "a task cannot be generic: stored arguments are read back as one known type; write a task for each type",
        );
    }
    if let Some(clause) = &sig.generics.where_clause {
        errors.at(
            clause,
            "a task cannot have a `where` clause: its types must be known",
        );
    }
}

/// The parameters of the function, by the source of their values.
struct Inputs {
    context: Option<Param>,
    data: Vec<Param>,
    params: Vec<Param>,
}

fn read_params(sig: &Signature, errors: &mut Errors) -> Inputs {
    let mut context = None;
    let mut data = Vec::new();
    let mut params: Vec<Param> = Vec::new();
    for (index, input) in sig.inputs.iter().enumerate() {
        let input = match input {
            FnArg::Receiver(_) => continue, // reported already
            FnArg::Typed(input) => input,
        };
        check_attributes(&input.attrs, errors);
        let ident = read_name(sig, input, errors);
        let param = Param {
            ident,
            ty: (*input.ty).clone(),
            kind: parameter::read_kind(input, errors),
            streams: streamed_element(&input.ty),
        };
        if names_context(&input.ty) {
            parameter::check_context(input, errors);
            check_context(&input.ty, index, errors);
            context = Some(param);
        } else if names_data(&input.ty) {
            parameter::check_data(input, errors);
            check_data(input, &param, params.first(), errors);
            data.push(param);
        } else {
            OwnedCheck {
                place: Place::Parameter,
                errors,
            }
            .visit_type(&input.ty);
            params.push(param);
        }
    }
    if let Some(variadic) = &sig.variadic {
        errors.at(
            variadic,
            "a task cannot be variadic: take a `Vec` for any number of arguments, with `#[rest]`",
        );
    }
    parameter::check_order(&params, errors);
    if params.len() > MAX_PARAMS {
        errors.at(
            &params[MAX_PARAMS].ident,
            format!("a task takes at most {MAX_PARAMS} parameters besides the context and application data: put some of them in a struct"),
        );
    }
    Inputs {
        context,
        data,
        params,
    }
}

fn check_attributes(attributes: &[Attribute], errors: &mut Errors) {
    for attribute in attributes {
        if attribute.path().is_ident("cfg") || attribute.path().is_ident("cfg_attr") {
            errors.at(
                attribute,
                "a task's parameters cannot be conditional: stored arguments are read back by position; write a task for each case",
            );
        }
    }
}

fn read_name(sig: &Signature, input: &PatType, errors: &mut Errors) -> Ident {
    match &*input.pat {
        Pat::Ident(pat) if pat.by_ref.is_none() && pat.subpat.is_none() => {
            if pat.ident == sig.ident {
                errors.at(
                    &pat.ident,
                    format!(
                        "`{}` is the task itself here: give the parameter another name",
                        pat.ident
                    ),
                );
            }
            pat.ident.clone()
        }
        pat => {
            let instead = match pat {
                Pat::Wild(_) => "write `_name` for one that is not used",
                _ => "name it here and take it apart in the body",
            };
            errors.at(pat, format!("a task's parameter has a plain name, which keyword arguments refer to: {instead}"));
            Ident::new("_unnamed", Span::call_site())
        }
    }
}

/// Returns the `T` of a type `Results<T>`.
fn streamed_element(ty: &Type) -> Option<Type> {
    match generic_arguments(ty)[..] {
        [GenericArgument::Type(element)] if last_segment_is(ty, "Results") => Some(element.clone()),
        _ => None,
    }
}

/// Returns whether the type is `TaskContext` or a reference to it.
fn names_context(ty: &Type) -> bool {
    match peel(ty) {
        Type::Reference(TypeReference { elem, .. }) => names_context(elem),
        ty => last_segment_is(ty, "TaskContext"),
    }
}

/// Returns whether the type is `Data<T>` or a reference to it.
fn names_data(ty: &Type) -> bool {
    match peel(ty) {
        Type::Reference(TypeReference { elem, .. }) => names_data(elem),
        ty => {
            last_segment_is(ty, "Data")
                && matches!(generic_arguments(ty)[..], [GenericArgument::Type(_)])
        }
    }
}

/// `argument`: the first argument before it.
fn check_data(input: &PatType, param: &Param, argument: Option<&Param>, errors: &mut Errors) {
    if let Type::Reference(ty) = peel(&input.ty) {
        errors.at(
            ty,
            "application data is cheap to clone: take it as `Data<T>`, without a reference",
        );
    }
    if let Some(argument) = argument {
        errors.at(
            input,
            format!(
                "application data comes before the arguments: move `{}` before `{}`, after the context if there is one (a type of your own that is called `Data<T>` needs another name here: `use … as`)",
                param.ident, argument.ident
            ),
        );
    }
}

fn check_context(ty: &Type, index: usize, errors: &mut Errors) {
    let plain = matches!(
        peel(ty),
        Type::Reference(TypeReference { lifetime: None, mutability: None, elem, .. })
            if last_segment_is(elem, "TaskContext")
    );
    if !plain {
        errors.at(
            ty,
            "the context is lent for one run: take it as `ctx: &TaskContext`",
        );
    }
    if index > 0 {
        errors.at(
            ty,
            "the context comes first: make it the first parameter, once",
        );
    }
}

fn read_output(output: &ReturnType, errors: &mut Errors) -> Output {
    let ReturnType::Type(_, ty) = output else {
        return Output::Unit;
    };
    if !last_segment_is(ty, "Result") {
        OwnedCheck {
            place: Place::Result,
            errors,
        }
        .visit_type(ty);
        return Output::Value(ty.clone());
    }
    let arguments = generic_arguments(ty);
    // The error type is not checked, because the error is not stored.
    if let Some(value) = arguments.first() {
        OwnedCheck {
            place: Place::Result,
            errors,
        }
        .visit_generic_argument(value);
    }
    let value = match arguments[..] {
        [GenericArgument::Type(value), GenericArgument::Type(_)] => Some(Box::new(value.clone())),
        _ => None,
    };
    Output::Fallible {
        ty: ty.clone(),
        value,
    }
}
