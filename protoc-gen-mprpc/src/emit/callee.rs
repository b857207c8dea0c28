//! The callee's side: the trait to implement, and what makes a service of it.

use super::Printer;
use super::tokens::{Method, Names, deprecated, doc, docs};
use crate::model::Service;
use proc_macro2::TokenStream;
use quote::quote;

pub(super) fn print(
    service: &Service,
    names: &Names,
    methods: &[Method<'_>],
    out: &mut Printer,
) -> syn::Result<()> {
    let Names { rust, server, constant, .. } = names;
    let service_docs = docs(&service.docs, || format!("The service `{}`.", service.full_name));
    let deprecated = deprecated(service.deprecated);
    let members = methods.iter().flat_map(trait_methods).chain([service_method(server)]);
    out.block(quote!(#service_docs #deprecated), quote!(pub trait #rust: Send + Sync + 'static {}), members)?;

    // A handler behind an `Arc` is a handler: its owner keeps a handle to its state.
    let arc = quote!(impl<T: #rust + ?Sized> #rust for ::std::sync::Arc<T> {});
    out.block(TokenStream::new(), arc, methods.iter().flat_map(arc_methods))?;

    let server_doc = doc(&format!("[`{rust}`] as a service: what [`{rust}::service`] makes."));
    out.item(server_doc, quote!(#[derive(Clone, Debug)] pub struct #server<T>(T);))?;

    let members = [
        quote! {
            fn descriptor(&self) -> &'static ::mprpc_runtime::ServiceDescriptor {
                &#constant
            }
        },
        dispatch(methods),
    ];
    out.block(TokenStream::new(), quote!(impl<T: #rust> ::mprpc_runtime::Service for #server<T> {}), members)
}

fn trait_methods(method: &Method<'_>) -> [TokenStream; 2] {
    let Method { call, input, deprecated, .. } = method;
    let (answer, deferred) = (answer(method), deferred_signature(method));
    let docs = method.docs("Answers");
    let unimplemented = format!("{} is not implemented", method.path);
    let deferred_doc = doc(&format!("{} whose answer may come later, from any thread.", method.link));
    [
        quote! {
            #docs
            #deprecated
            fn #call(&self, controller: &::mprpc_runtime::Controller, request: #input) -> #answer {
                let _ = (controller, request);
                ::std::result::Result::Err(::mprpc_runtime::Status::unimplemented(#unimplemented))
            }
        },
        quote! {
            #deferred_doc
            #deprecated
            #deferred {
                reply.send_with(self.#call(&controller, request), &controller.into_extras());
            }
        },
    ]
}

fn arc_methods(method: &Method<'_>) -> [TokenStream; 2] {
    let Method { call, deferred, input, .. } = method;
    let (answer, deferred_signature) = (answer(method), deferred_signature(method));
    [
        quote! {
            fn #call(&self, controller: &::mprpc_runtime::Controller, request: #input) -> #answer {
                (**self).#call(controller, request)
            }
        },
        quote! {
            #deferred_signature {
                (**self).#deferred(controller, request, reply);
            }
        },
    ]
}

fn answer(Method { output, .. }: &Method<'_>) -> TokenStream {
    quote!(::std::result::Result<#output, ::mprpc_runtime::Status>)
}

fn deferred_signature(Method { deferred, input, output, .. }: &Method<'_>) -> TokenStream {
    quote!(fn #deferred(&self, controller: ::mprpc_runtime::Controller, request: #input, reply: ::mprpc_runtime::Reply<#output>))
}

fn service_method(server: &proc_macro2::Ident) -> TokenStream {
    quote! {
        /// Makes the service that `RpcProvider::notify_service` takes.
        fn service(self) -> #server<Self>
        where
            Self: Sized,
        {
            #server(self)
        }
    }
}

fn dispatch(methods: &[Method<'_>]) -> TokenStream {
    let body = if methods.is_empty() {
        quote! {
            let _ = method;
            call.unimplemented();
        }
    } else {
        let arms = methods.iter().map(|Method { index, deferred, .. }| {
            quote!(#index => call.run(|controller, request, reply| self.0.#deferred(controller, request, reply)),)
        });
        quote! {
            match method {
                #(#arms)*
                _ => call.unimplemented(),
            }
        }
    };
    quote! {
        fn call_method(&self, method: usize, call: ::mprpc_runtime::ServerCall<'_>) {
            #body
        }
    }
}
