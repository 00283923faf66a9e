//! The methods of a task's struct: its signatures, and `call`.

use proc_macro2::TokenStream;
use quote::{ToTokens, format_ident, quote, quote_spanned};
use syn::ext::IdentExt;

use crate::{
    expand::Expansion,
    function::{Function, Param},
    parameter::Kind,
};

impl Expansion<'_> {
    /// Generates the inherent methods, with the visibility of the function.
    pub(crate) fn methods(&self) -> TokenStream {
        let ident = &self.function.ident;
        let lints = &self.function.attributes.lints;
        let signatures = self.signatures();
        let with_upstream = self.with_upstream();
        let map = self.map();
        let over_items = self.over_items();
        let call = self.call();
        quote_spanned! {self.span=>
            #[automatically_derived]
            #(#lints)*
            #[allow(dead_code, deprecated, unreachable_pub, unused_imports, clippy::missing_errors_doc, clippy::missing_panics_doc)]
            impl #ident {
                #signatures
                #with_upstream
                #map
                #over_items
                #call
            }
        }
    }

    /// Generates `s` and `si`, which take all arguments.
    fn signatures(&self) -> TokenStream {
        let Self {
            function,
            span,
            value,
            ..
        } = self;
        let Function { vis, params, .. } = function;
        let (declared, given) = (declare(params), pass(params));
        let s = format!(
            "Returns a signature of `{}` with all its arguments.",
            function.name()
        );
        let si = format!(
            "Returns a signature of `{}` with all its arguments, which ignores the upstream value.",
            function.name()
        );
        quote_spanned! {*span=>
            #[doc = #s]
            #[must_use = "a signature does nothing until it is submitted"]
            #vis fn s(&self, #declared) -> ::chordal::Signature<(), #value> {
                ::chordal::Signature::<(), #value>::full::<Self>(#given)
            }

            #[doc = #si]
            #[must_use = "a signature does nothing until it is submitted"]
            #vis fn si(&self, #declared) -> ::chordal::Immutable<#value> {
                ::chordal::Immutable::<#value>::of::<Self>(#given)
            }
        }
    }

    /// Generates `partial` and `each`, which take the first argument from upstream.
    fn with_upstream(&self) -> Option<TokenStream> {
        let Self {
            function,
            span,
            value,
            ..
        } = self;
        let Function { vis, params, .. } = function;
        let (first, others) = params.split_first()?;
        // The first of any number of arguments comes from upstream; the others are given.
        let (input, rest, which) = match &first.kind {
            Kind::Rest(element) => (quote!(#element), &params[..], "the first of"),
            _ => (first.given_as(), others, "its first argument,"),
        };
        let (declared, given) = (declare(rest), pass(rest));
        let partial = format!(
            "Returns a signature of `{}` that takes {which} `{}` from upstream.",
            function.name(),
            first.ident.unraw()
        );
        let each = format!(
            "Returns a signature that runs `{}` for each element of a list from upstream.",
            function.name()
        );
        Some(quote_spanned! {*span=>
            #[doc = #partial]
            #[must_use = "a signature does nothing until it is submitted"]
            #vis fn partial(&self, #declared) -> ::chordal::Signature<#input, #value> {
                use ::chordal::expansion::{Encoded as _, NotEncoded as _};
                ::chordal::Signature::<#input, #value>::partial_of::<Self>((&&::chordal::expansion::Rest(&#given)).encoded())
            }

            #[doc = #each]
            #[must_use = "a signature does nothing until it is submitted"]
            #vis fn each(
                &self, #declared
            ) -> ::chordal::Signature<::std::vec::Vec<#input>, ::std::vec::Vec<#value>> {
                use ::chordal::expansion::{Encoded as _, NotEncoded as _};
                ::chordal::Signature::<::std::vec::Vec<#input>, ::std::vec::Vec<#value>>::each_of::<Self>(
                    (&&::chordal::expansion::Rest(&#given)).encoded(),
                )
            }
        })
    }

    /// Generates `map`, for tasks with parameters: an item is the only argument, or a tuple of all
    /// arguments.
    fn map(&self) -> Option<TokenStream> {
        let Self {
            function,
            span,
            value,
            ..
        } = self;
        let Function { vis, params, .. } = function;
        let item = match &params[..] {
            [] => return None,
            [only] => only.given_as(),
            _ => self.item(),
        };
        let (pattern, as_args) = match &params[..] {
            [only] => {
                let item = quote!(__chordal_item);
                let given = given_as(only, &item);
                (item, quote!((#given,)))
            }
            _ => self.unpacked(),
        };
        let map = format!(
            "Returns a signature that runs `{}` for each item, in one task.",
            function.name()
        );
        Some(quote_spanned! {*span=>
            #[doc = #map]
            #[must_use = "a signature does nothing until it is submitted"]
            #vis fn map(
                &self,
                __chordal_items: impl ::core::iter::IntoIterator<Item = #item>,
            ) -> ::chordal::Immutable<::std::vec::Vec<#value>> {
                ::chordal::Immutable::<::std::vec::Vec<#value>>::map::<Self>(::core::iter::Iterator::map(
                    ::core::iter::IntoIterator::into_iter(__chordal_items),
                    |#pattern| #as_args,
                ))
            }
        })
    }

    /// Generates `starmap` and `chunks`, for tasks with parameters.
    fn over_items(&self) -> Option<TokenStream> {
        let Self {
            function,
            span,
            value,
            ..
        } = self;
        let Function { vis, params, .. } = function;
        params.first()?;
        let item = self.item();
        let (pattern, as_args) = self.unpacked();
        let items = quote! {
            ::core::iter::Iterator::map(
                ::core::iter::IntoIterator::into_iter(__chordal_items),
                |#pattern| #as_args,
            )
        };
        let starmap = format!(
            "Returns a signature that runs `{}` for each tuple of arguments, in one task.",
            function.name()
        );
        let chunks = format!(
            "Returns a signature that runs `{}` for each tuple of arguments, `n` of them to a task.",
            function.name()
        );
        Some(quote_spanned! {*span=>
            #[doc = #starmap]
            #[must_use = "a signature does nothing until it is submitted"]
            #vis fn starmap(
                &self,
                __chordal_items: impl ::core::iter::IntoIterator<Item = #item>,
            ) -> ::chordal::Immutable<::std::vec::Vec<#value>> {
                ::chordal::Immutable::<::std::vec::Vec<#value>>::starmap::<Self>(#items)
            }

            #[doc = #chunks]
            #[must_use = "a signature does nothing until it is submitted"]
            #vis fn chunks(
                &self,
                __chordal_items: impl ::core::iter::IntoIterator<
                    Item = #item,
                    IntoIter: ::core::marker::Send + 'static,
                >,
                __chordal_n: usize,
            ) -> ::chordal::Immutable<::std::vec::Vec<::std::vec::Vec<#value>>> {
                ::chordal::Immutable::<::std::vec::Vec<::std::vec::Vec<#value>>>::chunks::<Self>(#items, __chordal_n)
            }
        })
    }

    /// Generates the tuple type of all arguments, as a caller gives them.
    fn item(&self) -> TokenStream {
        let given = self.function.params.iter().map(Param::given_as);
        match self
            .function
            .params
            .iter()
            .any(|param| param.streams.is_some())
        {
            true => quote!((#(#given,)*)),
            false => self.args.clone(),
        }
    }

    /// Generates a pattern that takes that tuple apart, and the arguments as the task takes them.
    fn unpacked(&self) -> (TokenStream, TokenStream) {
        let params = &self.function.params;
        if params.iter().all(|param| param.streams.is_none()) {
            return (quote!(__chordal_item), quote!(__chordal_item));
        }
        let idents: Vec<_> = (0..params.len())
            .map(|i| format_ident!("__chordal_{i}"))
            .collect();
        let given = params.iter().zip(&idents);
        let given = given.map(|(param, ident)| given_as(param, ident));
        (quote!((#(#idents,)*)), quote!((#(#given,)*)))
    }

    /// Generates `call`, the plain function.
    fn call(&self) -> TokenStream {
        let Self {
            function,
            span,
            holder,
            ..
        } = self;
        let Function {
            vis,
            ident,
            body,
            attributes,
            ..
        } = function;
        let asyncness = function.is_async().then(|| quote_spanned!(*span=> async));
        let await_ = function.is_async().then(|| quote_spanned!(*span=> .await));
        let output = &body.sig.output;
        let must_use = &attributes.call;
        let inputs = || {
            let own = function.context.iter().chain(&function.data);
            own.chain(&function.params)
        };
        let declared = inputs().map(|Param { ident, ty, .. }| quote!(#ident: #ty));
        let given = inputs().map(|param| &param.ident);
        let doc = format!(
            "Calls `{}` directly, as a plain function, without the engine.",
            function.name()
        );
        quote_spanned! {*span=>
            #[doc = #doc]
            #(#must_use)*
            #vis #asyncness fn call(&self, #(#declared),*) #output {
                #holder::#ident(#(#given),*) #await_
            }
        }
    }
}

/// Generates `x: X, y: Y`, the parameters of a signature's constructor.
fn declare<'a>(params: impl IntoIterator<Item = &'a Param>) -> TokenStream {
    let params = params.into_iter().map(|param| {
        let (ident, ty) = (&param.ident, param.given_as());
        quote!(#ident: #ty)
    });
    quote!(#(#params),*)
}

/// Generates `(x, y)`, the arguments as the task takes them.
fn pass(params: &[Param]) -> TokenStream {
    let arguments = params.iter().map(|param| given_as(param, &param.ident));
    quote!((#(#arguments,)*))
}

/// Generates an argument as the task takes it from one that a caller has given.
fn given_as(param: &Param, given: &impl ToTokens) -> TokenStream {
    let ty = &param.ty;
    match param.streams {
        Some(_) => quote!(<#ty as ::core::convert::From<_>>::from(#given)),
        None => quote!(#given),
    }
}
