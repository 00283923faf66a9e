//! Where the function's other attributes go.

use syn::{Attribute, Meta, Token, parse_quote, punctuated::Punctuated};

/// The attributes of the function, sorted by the generated item they belong to.
#[derive(Debug, Default)]
pub(crate) struct Attributes {
    /// On the struct alone: what people read.
    pub(crate) shown: Vec<Attribute>,
    /// On the struct and all that hangs on it.
    pub(crate) cfg: Vec<Attribute>,
    /// On everything: lints that the user allows, wherever they would fire.
    pub(crate) lints: Vec<Attribute>,
    /// On `call`.
    pub(crate) call: Vec<Attribute>,
    /// On the function that holds the body: all the rest.
    pub(crate) body: Vec<Attribute>,
}

impl Attributes {
    pub(crate) fn sort(attributes: Vec<Attribute>) -> Self {
        let mut sorted = Self::default();
        for attribute in attributes {
            sorted.add(attribute);
        }
        sorted
    }

    fn add(&mut self, attribute: Attribute) {
        let name = attribute.path().get_ident().map(ToString::to_string);
        match name.as_deref() {
            Some("cfg_attr") => self.add_conditional(attribute),
            name => self.place(name, attribute),
        }
    }

    /// Takes `cfg_attr(when, one, two)` apart, so that each goes where it would go unconditionally.
    fn add_conditional(&mut self, attribute: Attribute) {
        let parser = Punctuated::<Meta, Token![,]>::parse_terminated;
        let Ok(parts) = attribute.parse_args_with(parser) else {
            return self.body.push(attribute); // the compiler says what is wrong with it
        };
        let mut parts = parts.into_iter();
        let Some(when) = parts.next() else {
            return self.body.push(attribute);
        };
        for part in parts {
            let name = part.path().get_ident().map(ToString::to_string);
            self.place(name.as_deref(), parse_quote!(#[cfg_attr(#when, #part)]));
        }
    }

    fn place(&mut self, name: Option<&str>, attribute: Attribute) {
        let list = match name {
            Some("doc" | "deprecated") => &mut self.shown,
            Some("cfg") => &mut self.cfg,
            Some("allow" | "warn" | "deny" | "forbid") => &mut self.lints,
            Some("must_use") => &mut self.call,
            _ => &mut self.body,
        };
        list.push(attribute);
    }
}
