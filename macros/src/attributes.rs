//! Distributes the function's other attributes over the generated items.

use syn::{Attribute, Meta, Token, parse_quote, punctuated::Punctuated};

/// The attributes of the function, sorted by the generated item they belong to.
#[derive(Debug, Default)]
pub(crate) struct Attributes {
    /// On the struct alone: documentation and deprecation.
    pub(crate) docs: Vec<Attribute>,
    /// On the struct and everything that belongs to it.
    pub(crate) cfg: Vec<Attribute>,
    /// On everything: lint levels, wherever the lints would fire.
    pub(crate) lints: Vec<Attribute>,
    /// On the method `call`.
    pub(crate) call: Vec<Attribute>,
    /// On the function that holds the body: all others.
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
            name => self.add_to_list(name, attribute),
        }
    }

    /// Splits `cfg_attr(when, one, two)`, so that each part goes where it would go unconditionally.
    fn add_conditional(&mut self, attribute: Attribute) {
        let parser = Punctuated::<Meta, Token![,]>::parse_terminated;
        let Ok(parts) = attribute.parse_args_with(parser) else {
            return self.body.push(attribute); // the compiler reports the error
        };
        let mut parts = parts.into_iter();
        let Some(when) = parts.next() else {
            return self.body.push(attribute);
        };
        for part in parts {
            let name = part.path().get_ident().map(ToString::to_string);
            self.add_to_list(name.as_deref(), parse_quote!(#[cfg_attr(#when, #part)]));
        }
    }

    fn add_to_list(&mut self, name: Option<&str>, attribute: Attribute) {
        let list = match name {
            Some("doc" | "deprecated") => &mut self.docs,
            Some("cfg") => &mut self.cfg,
            Some("allow" | "warn" | "deny" | "forbid") => &mut self.lints,
            Some("must_use") => &mut self.call,
            _ => &mut self.body,
        };
        list.push(attribute);
    }
}
