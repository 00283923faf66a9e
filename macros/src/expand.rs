//! Generates a task: a struct and a static with its name, its `Task` implementation, and its
//! methods.

use proc_macro2::{Delimiter, Group, Span, TokenStream};
use quote::{ToTokens, format_ident, quote, quote_spanned};
use syn::{Ident, Item, ItemFn, spanned::Spanned};

use crate::{
    errors::Errors,
    function::{self, Function, Output},
    options::Options,
    parameter,
};

/// The compiler's error for a task that returns an alias of a `Result`.
const RESULT_IN_DISGUISE: &str = "this is a `Result` by another name, so its `Err` would be stored as a value: write `Result<T, E>`, or name the alias `Result`; to store a `Result`, return `Result<Result<T, E>, TaskError>`";

/// Expands the attribute. Errors become `compile_error!`, beside as many items as can be generated.
pub(crate) fn task(options: TokenStream, item: TokenStream) -> TokenStream {
    let item: ItemFn = match syn::parse2(item.clone()) {
        Ok(item) => item,
        Err(error) => return not_a_function(item, error),
    };
    let mut errors = Errors::default();
    let options = Options::parse(options, &mut errors);
    let mut refusals = Errors::default();
    let in_impl = function::in_impl(&item).is_some();
    let function = Function::read(item, options.blocking, &mut refusals);
    options.check_parameters(&function.parameters(), &mut errors);

    // A function that cannot be a task still defines its name, so that imports of it resolve. An
    // `impl` block cannot contain a struct.
    let expansion = match (refusals.is_empty(), in_impl) {
        (true, _) => Expansion::new(&function, &options).expand(),
        (false, false) => definition(&function),
        (false, true) => TokenStream::new(),
    };
    errors.extend(refusals);
    let errors = errors.into_compile_error();
    quote!(#errors #expansion)
}

fn not_a_function(item: TokenStream, error: syn::Error) -> TokenStream {
    let error = match syn::parse2::<Item>(item.clone()) {
        Ok(Item::Verbatim(_)) | Err(_) => error.into_compile_error(),
        Ok(_) => syn::Error::new(
            Span::call_site(),
            "`#[task]` goes on a function: `async fn`, or `fn` with `#[task(blocking)]`",
        )
        .into_compile_error(),
    };
    quote!(#error #item)
}

/// Generates the task's name: a struct, as a type, and a static of it, as a value. (A unit struct
/// would be both. But a parameter or variable of the same name would then be a pattern that matches
/// this struct, which the compiler reports at every use; for a static it reports once that it
/// cannot be shadowed.)
fn definition(function: &Function) -> TokenStream {
    let Function {
        attributes,
        vis,
        ident,
        ..
    } = function;
    let (docs, cfg, lints) = (&attributes.docs, &attributes.cfg, &attributes.lints);
    // The definition that the compiler shows begins at the attribute, so that it is recognizable as
    // a task.
    let static_ = quote_spanned!(Span::call_site()=> static);
    quote_spanned! {generated_at(ident)=>
        #(#cfg)*
        #(#docs)*
        #(#lints)*
        #[allow(non_camel_case_types)]
        #[derive(
            ::core::clone::Clone,
            ::core::marker::Copy,
            ::core::fmt::Debug,
            ::core::default::Default,
        )]
        #vis struct #ident {}

        #(#cfg)*
        #(#docs)*
        #(#lints)*
        #[doc(hidden)]
        #[allow(non_upper_case_globals, dead_code, deprecated, unreachable_pub)]
        #vis #static_ #ident: #ident = #ident {};
    }
}

/// One expansion, with the pieces that several of its parts share.
pub(crate) struct Expansion<'a> {
    pub(crate) function: &'a Function,
    options: &'a Options,
    /// The span of the function's name, for errors.
    pub(crate) span: Span,
    /// The type that holds the body, so that the function's own name is free for the task.
    pub(crate) holder: Ident,
    /// The span of the return type, for errors about it.
    output_span: Span,
    /// `O`, the type of the task's value.
    pub(crate) value: TokenStream,
    /// `(X, Y)`, with the span of the parameters.
    pub(crate) args: TokenStream,
}

impl<'a> Expansion<'a> {
    fn new(function: &'a Function, options: &'a Options) -> Self {
        let ident = &function.ident;
        let span = generated_at(ident);
        let output_span = match &function.output {
            Output::Unit => span,
            Output::Value(ty) | Output::Fallible { ty, .. } => generated_at(ty),
        };
        let value = match &function.output {
            Output::Unit => quote!(()),
            Output::Value(ty)
            | Output::Fallible {
                value: Some(ty), ..
            } => quote!(#ty),
            Output::Fallible { ty, value: None } => {
                quote_spanned!(output_span=> <#ty as ::chordal::TaskResult>::Value)
            }
        };
        Self {
            function,
            options,
            span,
            output_span,
            holder: format_ident!("__ChordalTaskBody", span = span),
            value,
            args: tuple(function),
        }
    }

    fn expand(&self) -> TokenStream {
        let definition = definition(self.function);
        let cfg = &self.function.attributes.cfg;
        let body = self.body();
        let implementation = self.implementation();
        let methods = self.methods();
        let check = self.check();
        quote! {
            #definition

            #(#cfg)*
            const _: () = {
                #[allow(unused_imports)]
                use ::chordal::expansion::{NoResult as _, Untyped as _};

                #body
                #implementation
                #methods
                #check
            };
        }
    }

    /// Refuses an alias of `Result`, because its errors would be stored as values.
    fn check(&self) -> Option<TokenStream> {
        let Output::Value(ty) = &self.function.output else {
            return None;
        };
        Some(quote_spanned! {self.output_span=>
            const _: () =
                ::core::assert!(!::chordal::expansion::Returned::<#ty>::IS_RESULT, #RESULT_IN_DISGUISE);
        })
    }

    /// Generates the function as it was written, in its own namespace.
    fn body(&self) -> TokenStream {
        let Self {
            function, holder, ..
        } = self;
        let body = &function.body;
        quote! {
            enum #holder {}

            // The changes that these lints suggest would contradict the signature that makes the
            // function a task.
            #[allow(clippy::unused_async, clippy::needless_pass_by_value, clippy::missing_const_for_fn)]
            impl #holder {
                #body
            }
        }
    }

    fn implementation(&self) -> TokenStream {
        let Self {
            function,
            options,
            span,
            output_span,
            holder,
            value,
            args,
        } = self;
        let ident = &function.ident;
        let lints = &function.attributes.lints;
        let name = options.name.clone().unwrap_or_else(|| function.name());
        let parameters = function.params.iter().enumerate().map(|(i, param)| {
            let constant = parameter::constant(param);
            let streamed = (i == 0 && param.streams.is_some()).then(|| quote!(.streamed()));
            quote!(#constant #streamed)
        });
        let constant = options.to_const();

        let given_context = function
            .context
            .as_ref()
            .map(|_| quote!(&__chordal_context,));
        let arguments = function.params.iter().enumerate().map(|(i, param)| {
            let index = syn::Index::from(i);
            let within =
                (i == 0 && param.streams.is_some()).then(|| quote!(.within(&__chordal_context)));
            quote!(__chordal_args.#index #within)
        });
        let data = function.data.iter().map(|param| {
            let ty = &param.ty;
            quote_spanned! {generated_at(ty)=>
                <#ty as ::chordal::expansion::ApplicationData>::find(&__chordal_context)?,
            }
        });
        let uses_context =
            function.context.is_some() || !function.data.is_empty() || function.streams();
        let await_ = function.is_async().then(|| quote!(.await));
        let outcome = quote!(#holder::#ident(#given_context #(#data)* #(#arguments),*) #await_);
        let result = match &function.output {
            Output::Unit => quote!({ #outcome; ::core::result::Result::Ok(()) }),
            Output::Value(_) => quote!(::core::result::Result::Ok(#outcome)),
            Output::Fallible { .. } => fallible(&outcome, *output_span),
        };
        let data = self.data();
        let finished = quote_spanned! {*output_span=>
            ::core::result::Result<Self::Output, ::chordal::TaskError>
        };
        let context = binding("context", uses_context);
        let unpacked = binding("args", !function.params.is_empty());
        quote_spanned! {*span=>
            #[automatically_derived]
            #(#lints)*
            #[allow(deprecated, clippy::redundant_closure, clippy::unused_unit)]
            impl ::chordal::Task for #ident {
                type Args = #args;
                type Output = #value;
                const NAME: &'static str = #name;
                const PARAMS: &'static [::chordal::Parameter] = &[#(#parameters),*];
                #data
                #constant

                async fn run(#context: ::chordal::TaskContext, #unpacked: Self::Args) -> #finished {
                    #result
                }
            }
        }
    }

    /// Generates `const DATA`, or nothing if the function takes no application data.
    fn data(&self) -> Option<TokenStream> {
        let types = self.function.data.iter().map(|param| {
            let ty = &param.ty;
            quote_spanned!(generated_at(ty)=> <#ty as ::chordal::expansion::ApplicationData>::TYPE)
        });
        let is_some = !self.function.data.is_empty();
        is_some.then(|| quote!(const DATA: &'static [::chordal::DataType] = &[#(#types),*];))
    }
}

/// Returns the span of user code, resolved and linted as generated code.
pub(crate) fn generated_at(written: impl Spanned) -> Span {
    Span::call_site().located_at(written.span())
}

/// Generates `(X, Y)`.
fn tuple(function: &Function) -> TokenStream {
    let types = function.params.iter().map(|param| &param.ty);
    let mut tuple = Group::new(Delimiter::Parenthesis, quote!(#(#types,)*));
    let written = function.body.sig.paren_token.span.join();
    tuple.set_span(Span::call_site().located_at(written));
    tuple.into_token_stream()
}

/// Generates the outcome of a function that returns a `Result`, with its error converted into a
/// `TaskError`.
fn fallible(outcome: &TokenStream, span: Span) -> TokenStream {
    quote_spanned! {span=>
        match ::chordal::TaskResult::into_result(#outcome) {
            ::core::result::Result::Ok(__chordal_value) => {
                ::core::result::Result::Ok(__chordal_value)
            }
            ::core::result::Result::Err(__chordal_error) => {
                use ::chordal::expansion::{
                    ByDeref as _, ByInto as _, ByNothing as _, ByText as _,
                };
                let __chordal_type = ::chordal::expansion::ErrorOf::new(&__chordal_error);
                let __chordal_conversion = (&&&&__chordal_type).conversion();
                ::core::result::Result::Err(__chordal_conversion.convert(__chordal_error))
            }
        }
    }
}

/// Returns a parameter of `run`, marked if it is not used. A parameter cannot have the name of a
/// task in scope, so the name is one that no task has.
fn binding(name: &str, used: bool) -> Ident {
    if used {
        format_ident!("__chordal_{name}")
    } else {
        format_ident!("___chordal_{name}")
    }
}
