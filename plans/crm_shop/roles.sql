-- The three applications that write to the shared database, each as a role of its own.
-- Roles belong to the server, not to the database, so this may run where they exist.

DO $roles$
DECLARE
    wanted text;
BEGIN
    FOREACH wanted IN ARRAY ARRAY['crm_api', 'shop_api', 'mes_api'] LOOP
        BEGIN
            EXECUTE format('CREATE ROLE %I LOGIN', wanted);
        EXCEPTION
            -- the second is what a concurrent CREATE ROLE of the same name meets
            WHEN duplicate_object OR unique_violation THEN NULL;
        END;
    END LOOP;
END
$roles$;
