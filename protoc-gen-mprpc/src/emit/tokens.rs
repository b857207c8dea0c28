//! The names of a service and its methods as tokens.

use crate::model::{self, Message, Service};
use proc_macro2::{Ident, Literal, Span, TokenStream};
use quote::{format_ident, quote};

/// The items of one service.
pub(super) struct Names {
    pub(super) rust: Ident,
    pub(super) server: Ident,
    pub(super) stub: Ident,
    pub(super) constant: Ident,
}

impl Names {
    pub(super) fn new(service: &Service) -> Self {
        let rust = &service.rust;
        Self {
            rust: ident(rust),
            server: format_ident!("{rust}_Service"),
            stub: format_ident!("{rust}_Stub"),
            constant: ident(&service.constant),
        }
    }
}

/// One method.
pub(super) struct Method<'a> {
    pub(super) model: &'a model::Method,
    /// Its place in the service.
    pub(super) index: Literal,
    /// `fixbug.UserServiceRpc/Login`
    pub(super) path: String,
    /// A link to `call`, from its other forms.
    pub(super) link: String,
    pub(super) call: Ident,
    pub(super) deferred: Ident,
    pub(super) asynchronous: Ident,
    pub(super) start: Ident,
    pub(super) batch: Ident,
    pub(super) input: TokenStream,
    pub(super) output: TokenStream,
    pub(super) deprecated: TokenStream,
}

impl<'a> Method<'a> {
    pub(super) fn new(service: &Service, index: usize, method: &'a model::Method) -> syn::Result<Self> {
        let names = &method.rust;
        let path = |message: &Message| message.path.parse::<TokenStream>();
        let plain = names.call.trim_start_matches("r#");
        Ok(Self {
            model: method,
            index: Literal::usize_unsuffixed(index),
            path: format!("{}/{}", service.full_name, method.name),
            link: format!("[`{plain}`](Self::{plain})"),
            call: ident(&names.call),
            deferred: ident(&names.deferred),
            asynchronous: ident(&names.asynchronous),
            start: ident(&names.start),
            batch: ident(&names.batch),
            input: path(&method.input)?,
            output: path(&method.output)?,
            deprecated: deprecated(method.deprecated),
        })
    }

    /// The comment of the file, else a sentence that begins with `verb`.
    pub(super) fn docs(&self, verb: &str) -> TokenStream {
        docs(&self.model.docs, || format!("{verb} `{}`.", self.path))
    }
}

/// Lines of documentation; without any, the default.
pub(super) fn docs(lines: &[String], default: impl FnOnce() -> String) -> TokenStream {
    match lines {
        [] => doc(&default()),
        lines => lines.iter().map(|line| doc(line)).collect(),
    }
}

/// One line of documentation.
pub(super) fn doc(line: &str) -> TokenStream {
    let line = if line.is_empty() { String::new() } else { format!(" {line}") };
    quote!(#[doc = #line])
}

pub(super) fn deprecated(deprecated: bool) -> TokenStream {
    if deprecated { quote!(#[deprecated]) } else { TokenStream::new() }
}

/// The names in the model are identifiers, some of them raw.
fn ident(name: &str) -> Ident {
    match name.strip_prefix("r#") {
        Some(keyword) => Ident::new_raw(keyword, Span::call_site()),
        None => Ident::new(name, Span::call_site()),
    }
}
