//! Protobuf alone: make a message with lists and maps, turn it into bytes and back, look into it.

use std::error::Error;

use proto::address_book::{AddressBook, Person, Sex};
use protobuf::{Message, text_format};

/// What `build.rs` made of the file in `proto/`.
mod proto {
    include!(concat!(env!("OUT_DIR"), "/mprpc/mod.rs"));
}

fn main() -> Result<(), Box<dyn Error>> {
    let bytes = address_book().write_to_bytes()?;
    println!("{} bytes", bytes.len());

    // A callee would begin here, with what came over the wire.
    let book = AddressBook::parse_from_bytes(&bytes)?;
    println!("{} friends", book.friends.len());
    for friend in &book.friends {
        let mail = friend.mail.as_deref().unwrap_or("no mail");
        println!("  {}, {} years, {:?}, {mail}", friend.name, friend.age, friend.sex.enum_value_or_default());
    }
    println!("lucky numbers: {:?}", book.lucky_numbers);
    // A map keeps no order.
    let mut rooms: Vec<_> = book.room_of.iter().collect();
    rooms.sort();
    println!("rooms: {rooms:?}");
    if let Some(person) = book.person_by_id.get(&1001) {
        println!("1001 in text format: {}", text_format::print_to_string(person));
    }
    Ok(())
}

fn address_book() -> AddressBook {
    let gao = person("gao yang", 27, Sex::MAN, Some("gao@example.com"));
    let liu = person("liu hong", 25, Sex::WOMAN, None);
    let mut book = AddressBook::new();
    book.person_by_id.insert(1001, gao.clone());
    book.person_by_id.insert(1002, liu.clone());
    book.friends = vec![gao, liu];
    book.lucky_numbers.extend([8, 88, 888]);
    book.room_of.insert("gao yang".into(), 301);
    book.room_of.insert("liu hong".into(), 302);
    book
}

fn person(name: &str, age: u32, sex: Sex, mail: Option<&str>) -> Person {
    Person { name: name.into(), age, sex: sex.into(), mail: mail.map(str::to_owned), ..Default::default() }
}
