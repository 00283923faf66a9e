//! The types of parameters and results: their names, and whether they can be stored.

use syn::{
    GenericArgument, Lifetime, PathArguments, Type, TypeImplTrait, TypePath, TypeReference,
    visit::Visit,
};

use crate::errors::Errors;

/// The position of a type, which determines its error message.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Place {
    Parameter,
    Result,
}

impl Place {
    fn needs(self, owned: &str) -> String {
        match self {
            Self::Parameter => format!("task parameters are stored: take {owned}"),
            Self::Result => format!("task results are stored: return {owned}"),
        }
    }
}

/// Finds types that cannot be stored and read back: types that borrow or have no name.
pub(crate) struct OwnedCheck<'a> {
    pub(crate) place: Place,
    pub(crate) errors: &'a mut Errors,
}

impl Visit<'_> for OwnedCheck<'_> {
    fn visit_type_reference(&mut self, ty: &TypeReference) {
        let owned = match peel(&ty.elem) {
            Type::Slice(_) => "an owned type such as `Vec<T>` instead of a slice",
            elem if last_segment_is(elem, "Path") => {
                "an owned type such as `PathBuf` instead of `&Path`"
            }
            elem if last_segment_is(elem, "str") => {
                "an owned type such as `String` instead of `&str`"
            }
            _ => "an owned type instead of a reference",
        };
        self.errors.at(ty, self.place.needs(owned));
    }

    fn visit_type_impl_trait(&mut self, ty: &TypeImplTrait) {
        self.errors.at(
            ty,
            self.place
                .needs("a named type, which can be read back, instead of `impl Trait`"),
        );
    }

    fn visit_lifetime(&mut self, lifetime: &Lifetime) {
        if lifetime.ident != "static" {
            self.errors.at(
                lifetime,
                self.place
                    .needs("an owned type instead of one that borrows"),
            );
        }
    }
}

/// Returns the arguments of the last segment: `T` and `E` of `Result<T, E>`.
pub(crate) fn generic_arguments(ty: &Type) -> Vec<&GenericArgument> {
    let Type::Path(TypePath { path, .. }) = peel(ty) else {
        return Vec::new();
    };
    match path.segments.last().map(|segment| &segment.arguments) {
        Some(PathArguments::AngleBracketed(arguments)) => arguments.args.iter().collect(),
        _ => Vec::new(),
    }
}

pub(crate) fn last_segment_is(ty: &Type, name: &str) -> bool {
    match peel(ty) {
        Type::Path(TypePath { path, .. }) => path
            .segments
            .last()
            .is_some_and(|segment| segment.ident == name),
        _ => false,
    }
}

/// Removes parentheses, and the invisible ones around a `macro_rules!` fragment.
pub(crate) fn peel(mut ty: &Type) -> &Type {
    loop {
        ty = match ty {
            Type::Group(group) => &group.elem,
            Type::Paren(paren) => &paren.elem,
            _ => return ty,
        }
    }
}
