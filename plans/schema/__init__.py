"""The schema that a service's new database gets, as DDL read from the source's catalog."""
