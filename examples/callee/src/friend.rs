//! The friend service: who knows whom. Here everybody has the same three friends.

use mprpc_runtime::{Controller, Status};
use protobuf::MessageField;

use crate::proto::{
    friend::{GetFriendsListRequest, GetFriendsListResponse, ResultCode},
    friend_mprpc::FriendServiceRpc,
};

pub struct FriendService;

impl FriendServiceRpc for FriendService {
    fn get_friends_list(
        &self,
        controller: &Controller,
        request: GetFriendsListRequest,
    ) -> Result<GetFriendsListResponse, Status> {
        log::debug!("friends of {}, asked by {:?}", request.userid, controller.peer());
        Ok(GetFriendsListResponse {
            result: MessageField::some(ResultCode::new()),
            friends: FRIENDS.map(Vec::from).to_vec(),
            ..Default::default()
        })
    }
}

const FRIENDS: [&str; 3] = ["gao yang", "liu hong", "wang shuo"];
