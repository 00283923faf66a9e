//! Functions that are named as questions: they answer, and change nothing.

use syn::visit::{self, Visit};
use syn::{Attribute, FnArg, GenericArgument, PathArguments, ReturnType, Signature, Type};

use super::modules::is_for_tests;

/// What a question begins with.
const QUESTIONS: &[&str] = &[
    "are_",
    "can_",
    "contains_",
    "does_",
    "has_",
    "is_",
    "may_",
    "must_",
    "needs_",
    "should_",
    "was_",
];

/// The functions of a file that are named as questions, and may change something or do not answer with
/// yes or no.
pub(crate) fn faults(file: &syn::File) -> Vec<String> {
    let mut questions = Questions(Vec::new());
    questions.visit_file(file);
    questions.0
}

struct Questions(Vec<String>);

impl Questions {
    fn check(&mut self, attributes: &[Attribute], signature: &Signature) {
        let name = signature.ident.to_string();
        let is_question = QUESTIONS.iter().any(|begin| name.starts_with(begin));
        if !is_question || is_for_tests(attributes) {
            return;
        }
        if signature.inputs.iter().any(takes_mutably) {
            self.0
                .push(format!("{name} takes something that it may change"));
        }
        if !matches!(&signature.output, ReturnType::Type(_, answer) if is_answer(answer)) {
            self.0.push(format!("{name} does not answer with a bool"));
        }
    }
}

impl<'ast> Visit<'ast> for Questions {
    fn visit_item_fn(&mut self, function: &'ast syn::ItemFn) {
        self.check(&function.attrs, &function.sig);
        visit::visit_item_fn(self, function);
    }

    fn visit_impl_item_fn(&mut self, function: &'ast syn::ImplItemFn) {
        self.check(&function.attrs, &function.sig);
        visit::visit_impl_item_fn(self, function);
    }

    fn visit_trait_item_fn(&mut self, function: &'ast syn::TraitItemFn) {
        self.check(&function.attrs, &function.sig);
        visit::visit_trait_item_fn(self, function);
    }

    fn visit_item_mod(&mut self, module: &'ast syn::ItemMod) {
        if !is_for_tests(&module.attrs) {
            visit::visit_item_mod(self, module);
        }
    }
}

fn takes_mutably(input: &FnArg) -> bool {
    match input {
        FnArg::Receiver(receiver) => receiver.reference.is_some() && receiver.mutability.is_some(),
        FnArg::Typed(typed) => {
            matches!(&*typed.ty, Type::Reference(reference) if reference.mutability.is_some())
        }
    }
}

/// Says whether this is `bool`, or a `Result` or an `Option` of it.
fn is_answer(answer: &Type) -> bool {
    let Type::Path(path) = answer else {
        return false;
    };
    let Some(last) = path.path.segments.last() else {
        return false;
    };
    match (&*last.ident.to_string(), &last.arguments) {
        ("bool", _) => true,
        ("Result" | "Option", PathArguments::AngleBracketed(of)) => {
            matches!(of.args.first(), Some(GenericArgument::Type(of)) if is_answer(of))
        }
        _ => false,
    }
}
