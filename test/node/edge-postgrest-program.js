// In place of the program postgrest: its configuration file as the argument, its environment, and the replay behind it.

import { readConfiguration, startPostgrest } from './edge-postgrest.js';

const configuration = readConfiguration(process.argv[2]);
await startPostgrest({
	connectionString: process.env.PGRST_DB_URI,
	jwtSecret: process.env.PGRST_JWT_SECRET,
	configuration,
	port: Number(configuration['server-port']),
});
