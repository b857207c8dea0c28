//! The caller's side: the stub; and what both sides know of the service.

use super::Printer;
use super::tokens::{Method, Names, deprecated, doc};
use crate::model::Service;
use proc_macro2::{Literal, TokenStream};
use quote::quote;

pub(super) fn print(
    service: &Service,
    names: &Names,
    methods: &[Method<'_>],
    out: &mut Printer,
) -> syn::Result<()> {
    let Names { stub, constant, .. } = names;
    let Service { full_name, name, .. } = service;
    let constant_doc = doc(&format!("What `{full_name}` consists of."));
    let descriptors = methods.iter().map(|method| descriptor(full_name, method));
    let descriptor = quote! {
        pub static #constant: ::mprpc_runtime::ServiceDescriptor =
            ::mprpc_runtime::ServiceDescriptor::new(#full_name, #name, &[#(#descriptors),*]);
    };
    out.item(constant_doc.clone(), descriptor)?;

    let stub_doc = doc(&format!("The caller's side of `{full_name}`."));
    let deprecated = deprecated(service.deprecated);
    let fields = quote!(#[derive(Clone, Debug)] pub struct #stub { stub: ::mprpc_runtime::Stub });
    out.item(quote!(#stub_doc #deprecated), fields)?;

    let calls = methods.iter().flat_map(|method| stub_methods(constant, method));
    out.block(
        TokenStream::new(),
        quote!(impl #stub {}),
        common_methods(constant, &constant_doc).into_iter().chain(calls),
    )
}

fn descriptor(service: &str, method: &Method<'_>) -> TokenStream {
    let (wire, extras) = (&method.model.name, &method.model.extras);
    let (input, output) = (&method.model.input.full_name, &method.model.output.full_name);
    let inline = extras.inline.then(|| quote!(.inline()));
    let idempotent = extras.idempotent.then(|| quote!(.idempotent()));
    let timeout = extras.timeout_ms.map(Literal::u32_unsuffixed).map(|ms| quote!(.timeout_ms(#ms)));
    let empty = method.model.output.empty.then(|| quote!(.empty_response()));
    quote!(::mprpc_runtime::MethodDescriptor::new(#service, #wire, #input, #output) #inline #idempotent #timeout #empty)
}

fn common_methods(constant: &proc_macro2::Ident, constant_doc: &TokenStream) -> [TokenStream; 5] {
    [
        quote! {
            /// Makes a stub that calls over `channel`.
            pub fn new(channel: impl ::mprpc_runtime::RpcChannel + 'static) -> Self {
                Self { stub: ::mprpc_runtime::Stub::new(channel) }
            }
        },
        quote! {
            #constant_doc
            pub fn descriptor() -> &'static ::mprpc_runtime::ServiceDescriptor {
                &#constant
            }
        },
        quote! {
            /// The same stub with other options.
            pub fn with(&self, options: ::mprpc_runtime::CallOptions) -> Self {
                Self { stub: self.stub.with(options) }
            }
        },
        quote! {
            /// The same stub, whose calls report to `controller`.
            pub fn controlled_by(&self, controller: &mut ::mprpc_runtime::MprpcController) -> Self {
                Self { stub: self.stub.controlled_by(controller) }
            }
        },
        quote! {
            /// The same stub, whose calls `interceptor` sees.
            pub fn intercept(&self, interceptor: impl ::mprpc_runtime::ClientInterceptor + 'static) -> Self {
                Self { stub: self.stub.intercept(interceptor) }
            }
        },
    ]
}

fn stub_methods(constant: &proc_macro2::Ident, method: &Method<'_>) -> [TokenStream; 4] {
    let Method { index, link, call, asynchronous, start, batch, input, output, deprecated, .. } = method;
    let descriptor = quote!(&#constant.methods[#index]);
    let result = quote!(::std::result::Result<#output, ::mprpc_runtime::Error>);
    let call_docs = method.docs("Calls");
    let async_doc = doc(&format!(
        "{link} that does not wait: `done` gets the answer, on a thread that it must not block."
    ));
    let start_doc = doc(&format!("{link} that does not wait: the answer is in what it returns."));
    let batch_doc =
        doc(&format!("{link} for many requests at once; the answers are in the order of the requests."));
    [
        quote! {
            #call_docs
            #deprecated
            pub fn #call(&self, request: &#input) -> #result {
                self.stub.call(#descriptor, request)
            }
        },
        quote! {
            #async_doc
            #deprecated
            pub fn #asynchronous(&self, request: &#input, done: impl FnOnce(#result) + Send + 'static) {
                self.stub.call_async(#descriptor, request, done);
            }
        },
        quote! {
            #start_doc
            #deprecated
            pub fn #start(&self, request: &#input) -> ::mprpc_runtime::Pending<#output> {
                self.stub.start(#descriptor, request)
            }
        },
        quote! {
            #batch_doc
            #deprecated
            pub fn #batch(&self, requests: &[#input]) -> Vec<#result> {
                self.stub.batch(#descriptor, requests)
            }
        },
    ]
}
