import java.lang.reflect.Field;
import java.lang.reflect.Modifier;
import java.util.Set;
import java.util.TreeSet;

import org.apache.kafka.clients.producer.ProducerConfig;
import org.apache.kafka.common.config.ConfigDef;
import org.apache.kafka.connect.runtime.SourceConnectorConfig;

/** Prints each option that the classes of Debezium and Kafka define, behind its kind. */
public class Options {
    public static void main(String[] arguments) throws Exception {
        String postgres = "io.debezium.connector.postgresql.PostgresConnector";
        Set<String> names = new TreeSet<>(definition(postgres).names());
        Field all = Class.forName(postgres + "Config").getDeclaredField("ALL_FIELDS");
        all.setAccessible(true);
        for (Object field : (Iterable<?>) all.get(null)) {
            names.add(name(field));
        }
        for (Class<?> it = Class.forName(postgres + "Config"); it != null; it = it.getSuperclass()) {
            for (Field field : it.getDeclaredFields()) {
                boolean isOption = field.getType().getName().equals("io.debezium.config.Field");
                if (isOption && Modifier.isStatic(field.getModifiers())) {
                    field.setAccessible(true);
                    names.add(name(field.get(null)));
                }
            }
        }
        print("postgres", names);
        print("router", definition("io.debezium.transforms.outbox.EventRouter").names());
        print("producer", ProducerConfig.configNames());
        print("connect", SourceConnectorConfig.configDef().names());
    }

    private static ConfigDef definition(String type) throws Exception {
        Object made = Class.forName(type).getDeclaredConstructor().newInstance();
        return (ConfigDef) made.getClass().getMethod("config").invoke(made);
    }

    private static String name(Object option) throws Exception {
        return (String) option.getClass().getMethod("name").invoke(option);
    }

    private static void print(String kind, Set<String> names) {
        new TreeSet<>(names).forEach(name -> System.out.println(kind + " " + name));
    }
}
