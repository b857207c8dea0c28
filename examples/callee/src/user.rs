//! The user service: accounts. This one believes everybody; a real one would ask a database.

use mprpc_runtime::{Controller, Status};
use protobuf::MessageField;

use crate::proto::{
    user::{LoginRequest, LoginResponse, RegisterRequest, RegisterResponse, ResultCode},
    user_mprpc::UserServiceRpc,
};

pub struct UserService;

impl UserServiceRpc for UserService {
    /// A call can fail in two ways. What the caller may have to tell its user stands in the response
    /// (`errcode`); that the call itself could not be done is an `Err(Status)`.
    fn login(&self, controller: &Controller, request: LoginRequest) -> Result<LoginResponse, Status> {
        log::debug!("login, asked by {:?}", controller.peer());
        if request.name.is_empty() {
            return Err(Status::invalid_argument("a login needs a name"));
        }
        let welcome = !request.pwd.is_empty();
        Ok(LoginResponse {
            result: result(welcome, "the password is empty"),
            sucess: welcome,
            ..Default::default()
        })
    }

    fn register(
        &self,
        controller: &Controller,
        request: RegisterRequest,
    ) -> Result<RegisterResponse, Status> {
        log::debug!("register {}, asked by {:?}", request.id, controller.peer());
        let welcome = !request.pwd.is_empty();
        Ok(RegisterResponse {
            result: result(welcome, "the password is empty"),
            sucess: welcome,
            ..Default::default()
        })
    }
}

fn result(good: bool, wrong: &str) -> MessageField<ResultCode> {
    let mut result = ResultCode::new();
    if !good {
        result.errcode = 1;
        result.errmsg = wrong.into();
    }
    MessageField::some(result)
}
